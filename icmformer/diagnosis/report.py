"""The report of `icmformer doctor`: what each check found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from icmformer.errors import IcmformerError

State = Literal["ok", "warning", "failed", "skipped"]
Fact = str | int | float | bool | None
"""What a finding may say to machines."""
NETWORK_SECONDS = 8.0
"""Patience with a server, for one check as a whole."""
_LONGEST = 600


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        state: `warning` for what works and could be better; `skipped` for what was not asked for or cannot be told.
        text: What is, in one line.
        advice: What to do, in one line; empty where all is well.
        facts: The same for machines.
    """

    state: State
    text: str
    advice: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


def ok(text: str, **facts: Fact) -> Finding:
    """All is well."""
    return Finding("ok", text, "", facts)


def warning(text: str, advice: str, **facts: Fact) -> Finding:
    """It works, and could be better."""
    return Finding("warning", text, advice, facts)


def failed(text: str, advice: str, **facts: Fact) -> Finding:
    """It does not work."""
    return Finding("failed", text, advice, facts)


def skipped(text: str, advice: str = "") -> Finding:
    """Nobody asked, or nothing can be told."""
    return Finding("skipped", text, advice)


class Report:
    """The findings in order, by the names of their checks; no check can end the run.

    Args:
        tell: Called with each finding as it comes.
    """

    def __init__(self, tell: Callable[[str, Finding], None] = lambda name, finding: None) -> None:
        self.findings: dict[str, Finding] = {}
        self._tell = tell
        self._usable: set[str] = set()

    def check(
        self,
        name: str,
        find: Callable[[], Finding],
        needs: Sequence[str] = (),
        advice: str = "",
        seconds: float | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        """Runs a check and adds what it finds.

        Args:
            name: What is checked.
            find: Finds out. An `IcmformerError` that it raises is a failure with that text.
            needs: Names of earlier checks. Where one of them failed, or was itself skipped for want of another, this
                one is skipped.
            advice: What to do where `find` raises.
            seconds: Patience, for what may hang; None waits for ever.
            secrets: Values that the report must not show, whoever quotes them.
        """
        lacking = [need for need in needs if need not in self._usable]
        if lacking:
            finding = skipped(f"needs {' and '.join(lacking)}")
        else:
            finding = _found(find, advice) if seconds is None else _found_in_time(find, advice, seconds)
            if finding.state != "failed":
                self._usable.add(name)
        self.findings[name] = finding = _presentable(finding, secrets)
        self._tell(name, finding)


def _found(find: Callable[[], Finding], advice: str) -> Finding:
    try:
        return find()
    except IcmformerError as error:
        return failed(str(error), advice)
    except Exception as error:
        report = "this is a fault of the check: report it with this line"
        return failed(f"{type(error).__name__}: {error}", advice or report)


def _found_in_time(find: Callable[[], Finding], advice: str, seconds: float) -> Finding:
    """Leaves a check behind that hangs, wherever it does: in looking up a name, say, which has no time limit."""
    found: list[Finding] = []
    thread = threading.Thread(target=lambda: found.append(_found(find, advice)), daemon=True)
    thread.start()
    thread.join(seconds)
    if found:
        return found[0]
    return failed(f"no answer within {seconds:g} s", "is the machine there, and does a firewall drop the connection?")


def _presentable(finding: Finding, secrets: Sequence[str]) -> Finding:
    """Each text on one line, of bounded length, without secrets and characters that play with a terminal."""

    def clean(text: str) -> str:
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
        return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."

    facts = {name: clean(value) if isinstance(value, str) else value for name, value in finding.facts.items()}
    return replace(finding, text=clean(finding.text), advice=clean(finding.advice), facts=facts)
