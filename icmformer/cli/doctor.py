"""`icmformer doctor`: does it work here, with what it has to work with, and what is to be done where not?

The checks of Label Studio and CVAT come from the packages that talk to them, by entry points of the group
`icmformer.doctor`: functions that take `icmformer.diagnosis.Options` and give a list of `icmformer.diagnosis.Check`,
in modules whose `VARIABLES` name the settings of their package.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, distributions
from typing import Any

from icmformer import __version__
from icmformer.diagnosis import Check, Options, Outcome, examine, failed, installation, machine, skipped, variables
from icmformer.diagnosis.serving import Serving

GROUP = "icmformer.doctor"
_SERVERS = ("label_studio", "cvat")
_WORDS = {"ok": "", "warning": "WARNING: ", "failed": "FAILED: ", "skipped": "skipped: "}


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="check this installation and the servers it works with",
        description="Checks packages, device, weights, memory and disk, segments a test image, and looks at Label "
        "Studio and CVAT where their addresses are given. Exit status 1 if anything fails; warnings do not count.",
        epilog="Tokens come from LABEL_STUDIO_API_KEY and CVAT_ACCESS_TOKEN; they are not shown.",
    )
    parser.add_argument("--weights", help="name or path (ICMFORMER_WEIGHTS, else starter)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (ICMFORMER_DEVICE, else auto)")
    parser.add_argument("--label-studio", metavar="URL", help="Label Studio's address (LABEL_STUDIO_URL)")
    parser.add_argument("--project", type=int, metavar="ID", help="number of a Label Studio project to look at")
    parser.add_argument("--cvat", metavar="URL", help="CVAT's address (CVAT_HOST)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    environment = dict(os.environ)
    options = Options(environment, args.label_studio, args.project, args.cvat)
    plug_ins = _plug_ins()
    checks = [
        *installation.checks(),
        *Serving(environment, args.weights, args.device).checks(),
        Check("variables", lambda: _variables(environment, plug_ins)),
        *(check for name, entry in plug_ins.items() for check in _of_plug_in(name, entry, options)),
    ]
    tell = _silent if args.json else _tell
    tell("icmformer", Outcome("ok", __version__))
    outcomes = examine(checks, tell)
    outcomes |= examine([Check("clock", lambda: machine.clock(outcomes))], tell)
    wrong = [name for name, outcome in outcomes.items() if outcome.state == "failed"]
    doubtful = [name for name, outcome in outcomes.items() if outcome.state == "warning"]
    if args.json:
        print(json.dumps(_report(outcomes), indent=2))
    elif wrong:
        print(f"{len(wrong)} failed: {', '.join(wrong)}")
    else:
        print("all is well" + (f", with warnings: {', '.join(doubtful)}" if doubtful else ""))
    return 1 if wrong else 0


def _plug_ins() -> dict[str, EntryPoint | None]:
    """What has checks, by name: the servers first, None where theirs are not installed, then whatever else there is.

    Every distribution is looked through: a stale description of this package in a checkout hides no newer one.
    """
    found: dict[str, EntryPoint | None] = dict.fromkeys(_SERVERS)
    for distribution in distributions():
        for entry in distribution.entry_points:
            if entry.group == GROUP:
                found[entry.name] = found.get(entry.name) or entry
    return found


def _variables(environment: Mapping[str, str], plug_ins: Mapping[str, EntryPoint | None]) -> Outcome:
    """Whether all that looks like a setting is one, where all packages with settings are there to say so."""
    known = set(variables.OWN)
    for name, entry in plug_ins.items():
        try:
            known |= getattr(sys.modules[entry.load().__module__], "VARIABLES", frozenset()) if entry else set()
        except Exception:  # whatever a module may raise that cannot be imported here
            entry = None
        if entry is None:
            return skipped(f"cannot be told: the settings of {name.replace('_', ' ')} are not known")
    return variables.unknown(environment, known)


def _of_plug_in(name: str, entry: EntryPoint | None, options: Options) -> list[Check]:
    """The checks of a plug-in; where it is not there or does not load, one that says so."""
    shown = name.replace("_", " ")
    again = "install this package again: pip install --force-reinstall --no-deps icmformer (in a checkout: -e .)"
    if entry is None:
        absent = f"its checks are not installed (entry point {name} of {GROUP})"
        asked = {"label_studio": options.label_studio or options.project, "cvat": options.cvat}.get(name)
        return [_saying(shown, failed(absent, again) if asked else skipped(absent, again))]
    try:
        return [_whole(check) for check in entry.load()(options)]
    except Exception as error:  # whatever a module may raise that cannot be imported here
        return [_saying(shown, failed(f"its checks do not load: {type(error).__name__}: {error}", again))]


def _whole(check: Any) -> Check:
    if not isinstance(check, Check):
        raise TypeError(f"{type(check).__name__} is no Check")
    return check


def _saying(name: str, outcome: Outcome) -> Check:
    return Check(name, lambda: outcome)


def _tell(name: str, outcome: Outcome) -> None:
    print(f"{name}: {_WORDS[outcome.state]}{outcome.text}", flush=True)
    if outcome.advice:
        print(f"  -> {outcome.advice}", flush=True)


def _silent(name: str, outcome: Outcome) -> None:
    pass


def _report(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    return {
        "version": __version__,
        "ok": all(outcome.state != "failed" for outcome in outcomes.values()),
        "checks": [
            {"name": name, "state": o.state, "text": o.text, "advice": o.advice, "facts": dict(o.facts)}
            for name, o in outcomes.items()
        ],
    }
