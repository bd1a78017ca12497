"""What a check is, and how checks run: the words that `icmformer doctor` and the servers' own checks share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from icmformer.errors import IcmformerError

State = Literal["ok", "warning", "failed", "skipped"]
Fact = str | int | float | bool | None
"""What an outcome may say to machines."""
NETWORK_SECONDS = 8.0
"""Patience with a server, for one check as a whole."""
_LONGEST = 600


@dataclass(frozen=True)
class Outcome:
    """What a check came to.

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


def ok(text: str, **facts: Fact) -> Outcome:
    """All is well."""
    return Outcome("ok", text, "", facts)


def warning(text: str, advice: str, **facts: Fact) -> Outcome:
    """It works, and could be better."""
    return Outcome("warning", text, advice, facts)


def failed(text: str, advice: str, **facts: Fact) -> Outcome:
    """It does not work."""
    return Outcome("failed", text, advice, facts)


def skipped(text: str, advice: str = "") -> Outcome:
    """Nobody asked, or nothing can be told."""
    return Outcome("skipped", text, advice)


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What is checked.
        run: Finds out. An `IcmformerError` that it raises is a failure with that text.
        needs: Names of earlier checks without which this one has nothing to look at.
        seconds: Patience, for what may hang; None waits for ever.
        advice: What to do where `run` raises.
        secrets: Values that the report must not show, whoever quotes them.
    """

    name: str
    run: Callable[[], Outcome]
    needs: tuple[str, ...] = ()
    seconds: float | None = None
    advice: str = ""
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the command line asks of the servers' checks.

    Attributes:
        environment: The environment's variables.
        label_studio: Label Studio's address, to be used in place of the environment's.
        project: Number of the Label Studio project to look at.
        cvat: CVAT's address, to be used in place of the environment's.
    """

    environment: Mapping[str, str]
    label_studio: str | None = None
    project: int | None = None
    cvat: str | None = None


def examine(
    checks: Iterable[Check], tell: Callable[[str, Outcome], None] = lambda name, outcome: None
) -> dict[str, Outcome]:
    """Runs checks in order; none of them can end the run.

    Args:
        checks: What to check. Where something that a check needs failed, or was skipped for that reason, or is not
            there, it is skipped.
        tell: Called with each outcome as it comes.

    Returns:
        Name -> outcome, in order.
    """
    outcomes: dict[str, Outcome] = {}
    usable: set[str] = set()
    for check in checks:
        lacking = [name for name in check.needs if name not in usable]
        outcome = skipped(f"needs {' and '.join(lacking)}") if lacking else _outcome(check)
        if not lacking and outcome.state != "failed":
            usable.add(check.name)
        outcomes[check.name] = outcome = _presentable(outcome, check.secrets)
        tell(check.name, outcome)
    return outcomes


def one_line(text: object) -> str:
    """A text, an error's for one, on one line, of bounded length, without characters that play with a terminal."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _presentable(outcome: Outcome, secrets: tuple[str, ...]) -> Outcome:
    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***") if secret else text
        return one_line(text)

    facts = {name: clean(value) if isinstance(value, str) else value for name, value in outcome.facts.items()}
    return replace(outcome, text=clean(outcome.text), advice=clean(outcome.advice), facts=facts)


def _outcome(check: Check) -> Outcome:
    try:
        return check.run() if check.seconds is None else _in_time(check.run, check.seconds)
    except IcmformerError as error:
        return failed(str(error), check.advice)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if check.advice:
            return failed(text, check.advice)
        return failed(f"the check itself broke: {text}", "this is a fault of the check: report it with this line")


def _in_time(run: Callable[[], Outcome], seconds: float) -> Outcome:
    """Leaves a check that hangs behind, wherever it does: in looking up a name, say, which has no time limit."""
    came: list[Outcome | Exception] = []

    def work() -> None:
        try:
            came.append(run())
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not came:
        return failed(
            f"no answer within {seconds:g} s", "is the machine there, and does a firewall drop the connection?"
        )
    if isinstance(came[0], Exception):
        raise came[0]
    return came[0]
