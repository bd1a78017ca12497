"""`icmformer doctor`: does it work here, with what it has to work with, and what is to be done where not?"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from types import ModuleType
from typing import Any

from icmformer import __version__
from icmformer.diagnosis import installation, machine, serving
from icmformer.diagnosis.report import Finding, Report, failed, ok, skipped
from icmformer.settings import variables

TOOLS = {
    "label studio": "icmformer.applications.ls_backend.doctor",
    "cvat": "icmformer.applications.serverless.doctor",
}
"""The modules that check the tools. By name, as this package depends on neither and they may not load."""
_WORDS = {"ok": "", "warning": "WARNING: ", "failed": "FAILED: ", "skipped": "skipped: "}


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="check this installation and the tools it works with",
        description="Checks packages, settings, device, weights, memory and disk, segments a test image, and looks at "
        "Label Studio and CVAT where their addresses are given. Exit status 1 if anything fails; warnings do not "
        "count.",
        epilog="Tokens come from LABEL_STUDIO_API_KEY and CVAT_ACCESS_TOKEN; they are not shown.",
    )
    parser.add_argument("--weights", help="name or path (ICMFORMER_WEIGHTS, else starter)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (ICMFORMER_DEVICE, else auto)")
    parser.add_argument("--label-studio", metavar="URL", help="Label Studio's address (LABEL_STUDIO_URL)")
    parser.add_argument("--project", type=int, metavar="ID", help="number of a Label Studio project to check")
    parser.add_argument("--cvat", metavar="URL", help="CVAT's address (CVAT_HOST)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    environment = dict(os.environ)
    for variable, given in (("LABEL_STUDIO_URL", args.label_studio), ("CVAT_HOST", args.cvat)):
        if given:
            environment[variable] = given
    tell = _silent if args.json else _tell
    tell("icmformer", ok(__version__))
    report = Report(tell)
    installation.check(report)
    serving.check(report, environment, args.weights, args.device)
    tools = {name: _loaded(module) for name, module in TOOLS.items()}
    report.check("variables", lambda: _variables(environment, tools))
    asked = {"label studio": args.label_studio or args.project, "cvat": args.cvat}
    more = {"label studio": [args.project], "cvat": []}
    for name, tool in tools.items():
        if isinstance(tool, ModuleType):
            tool.check(report, environment, *more[name])
        else:
            report.check(name, partial(_not_loaded, tool, TOOLS[name], bool(asked[name])))
    report.check("clock", lambda: machine.clock(report.findings))
    wrong, doubtful = ([n for n, f in report.findings.items() if f.state == state] for state in ("failed", "warning"))
    if args.json:
        checks = [{"name": name, **asdict(finding)} for name, finding in report.findings.items()]
        print(json.dumps({"version": __version__, "ok": not wrong, "checks": checks}, indent=2))
    elif wrong:
        print(f"{len(wrong)} failed: {', '.join(wrong)}")
    else:
        print("all is well" + (f", with warnings: {', '.join(doubtful)}" if doubtful else ""))
    return 1 if wrong else 0


def _loaded(module: str) -> ModuleType | Exception:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a module may raise that cannot be imported here
        return error


def _not_loaded(error: Exception, module: str, asked: bool) -> Finding:
    """What is said of a tool whose checks cannot be run."""
    again = "install this package again: pip install --force-reinstall --no-deps icmformer (in a checkout: -e .)"
    if isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0]):
        text = f"its checks are not installed (there is no {error.name})"
        return failed(text, again) if asked else skipped(text, again)
    return failed(f"its checks do not load: {type(error).__name__}: {error}", again)


def _variables(environment: Mapping[str, str], tools: Mapping[str, ModuleType | Exception]) -> Finding:
    """Whether all that looks like a setting is one, where all packages with settings are there to say so."""
    known: set[str] = set()
    for name, tool in tools.items():
        if not isinstance(tool, ModuleType):
            return skipped(f"cannot be told: the settings of {name} are not known")
        known.update(variables(tool.SETTINGS))
    return serving.unknown_variables(environment, known)


def _tell(name: str, finding: Finding) -> None:
    print(f"{name}: {_WORDS[finding.state]}{finding.text}", flush=True)
    if finding.advice:
        print(f"  -> {finding.advice}", flush=True)


def _silent(name: str, finding: Finding) -> None:
    pass
