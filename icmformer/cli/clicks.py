"""`icmformer clicks report`: the annotators' own number of clicks, from the click logs of the servers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError
from icmformer.serving.click_intervals import LEAST_ANNOTATIONS
from icmformer.serving.click_log import read
from icmformer.serving.click_report import report

_CAVEAT = (
    "Clicks depend on more than the weights: on the photos, the annotators, their practice. Versions used one after "
    "the other show what new weights are worth only as far as these stayed the same."
)


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "clicks",
        help="report how many clicks annotators needed",
        description="Reads the click logs that servers write to ICMFORMER_CLICK_LOG.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    report = actions.add_parser(
        "report",
        help="sum up click logs",
        description="Sums up click logs by tool: requests, clicks per request, latency, empty masks. Where the tool "
        "tells which masks were kept (Label Studio, by its webhook) also clicks per object, and the share of objects "
        "whose first mask was kept. Where several versions of the model answered, each has its own figures, and is "
        "compared with the one before it, in the order of their first use: the difference in clicks per kept mask, its "
        f"95% interval over annotations, and a verdict from {LEAST_ANNOTATIONS} annotations of each on. CVAT does not "
        "tell which masks were kept: there, versions are compared by clicks per request, which is another thing, since "
        "an object that takes three clicks makes three requests, and one that is given up counts too. " + _CAVEAT,
    )
    report.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="click logs of one or several servers")
    report.add_argument(
        "--since", metavar="DATE", type=_day, help="leave out what is older than this day (UTC), such as 2026-01-31"
    )
    report.add_argument("--json", action="store_true", help="print as JSON")
    report.set_defaults(run=_run)


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a date such as 2026-01-31, got {text!r}") from None


def _run(args: argparse.Namespace) -> int:
    lines = [line for line in read(args.logs) if not args.since or line["time"] >= args.since]
    if not lines:
        names = ", ".join(str(path) for path in args.logs)
        raise ConfigError(f"there are no clicks in {names}" + (f" since {args.since}" if args.since else ""))
    found = report(lines)
    print(json.dumps(found, indent=2) if args.json else _for_people(found))
    return 0


def _for_people(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for tool, figures in found.items():
        lines += [tool, *_figures(figures, "  ")]
        if "objects" not in figures:
            lines.append("  which masks were kept is not known: CVAT does not tell; Label Studio does by its webhook")
        if len(figures["versions"]) > 1:
            lines.append("  versions, by first use:")
            for version in figures["versions"]:
                lines += _version(version)
    if any(len(figures["versions"]) > 1 for figures in found.values()):
        lines.append(_CAVEAT)
    return "\n".join(lines)


def _figures(figures: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    if figures["requests"]:
        spent = figures["milliseconds"]
        lines += [
            f"{figures['requests']} requests, {figures['clicks_a_request']['mean']:.2f} clicks each, "
            f"{figures['empty']:.1%} empty masks",
            f"median {spent['median']:.0f} ms, 95% within {spent['p95']:.0f} ms, 99% within {spent['p99']:.0f} ms",
            f"requests by clicks: {_histogram(figures['clicks_a_request'])}",
        ]
    if "objects" in figures:
        clicks = figures["clicks_an_object"]
        lines += [
            f"{figures['objects']} masks kept, {clicks['mean']:.2f} clicks each{_within(clicks.get('interval'))}, "
            f"{figures['first_masks_accepted']:.1%} after the first, {figures['edited']:.1%} edited by hand",
            f"masks kept by clicks: {_histogram(clicks)}",
        ]
    return [indent + line for line in lines]


def _version(figures: Mapping[str, Any]) -> list[str]:
    tag = figures["tag"]
    name = figures["version"] or (f"{tag} (no click in these logs names it)" if tag else "not known")
    lines = [f"    {name}, since {figures['first_used'][:10]}", *_figures(figures, "      ")]
    against = figures.get("against")
    if against is None:
        return lines
    told = f"{against['difference']:+.2f} clicks"
    if "verdict" not in against:
        return [
            *lines,
            f"      against {against['version']}: {told} a request; of clicks per kept mask this says little",
        ]
    verdict = against["verdict"]
    if against["few"]:
        verdict += f" (a verdict takes {LEAST_ANNOTATIONS} annotations of each)"
    return [
        *lines,
        f"      against {against['version']}: {told} a kept mask{_within(against['interval'], '+')}: {verdict}",
    ]


def _within(interval: tuple[float, float] | None, sign: str = "") -> str:
    return "" if interval is None else f" (95% interval {interval[0]:{sign}.2f} to {interval[1]:{sign}.2f})"


def _histogram(counted: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} with {number}" for number, count in counted["by_number"].items())
