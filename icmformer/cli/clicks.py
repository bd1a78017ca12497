"""`icmformer clicks report`: the annotators' own number of clicks, from the click logs of the servers."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError
from icmformer.serving.click_log import read


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
        "whose first mask was kept.",
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


def report(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of click logs.

    Args:
        lines: As `icmformer.serving.click_log.read` gives them.

    Returns:
        By tool: `requests`, `clicks_a_request` (mean, by number), `empty`, `milliseconds` (median, p95, p99); and where
        masks are known to be kept: `objects`, `clicks_an_object` (mean, by number), `first_masks_accepted` (share),
        `edited` (share).
    """
    clicks: dict[str, list[Mapping[str, Any]]] = {}
    kept: dict[str, dict[int, Sequence[Mapping[str, Any]]]] = {}
    for line in sorted(lines, key=lambda line: str(line["time"])):  # the logs of several servers
        tool = str(line.get("tool", ""))
        clicks.setdefault(tool, [])
        if line["event"] == "click":
            clicks[tool].append(line)
            continue
        kept.setdefault(tool, {})[line["annotation"]] = line["regions"]  # saved again it counts as it was last
    return {
        tool: {**_requests(made), **_objects([region for held in kept.get(tool, {}).values() for region in held])}
        for tool, made in clicks.items()
    }


def _requests(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not made:
        return {"requests": 0}
    counts = [line["positive"] + line["negative"] + bool(line["box"]) for line in made]
    spent = sorted(line["milliseconds"] for line in made)
    return {
        "requests": len(made),
        "clicks_a_request": _counted(counts),
        "empty": sum(line["result"] == "empty" for line in made) / len(made),
        "milliseconds": {"median": statistics.median(spent), "p95": _at(spent, 0.95), "p99": _at(spent, 0.99)},
    }


def _objects(kept: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not kept:
        return {}
    counts = [region["clicks"] for region in kept]
    return {
        "objects": len(kept),
        "clicks_an_object": _counted(counts),
        "first_masks_accepted": sum(count == 1 for count in counts) / len(kept),
        "edited": sum(bool(region["edited"]) for region in kept) / len(kept),
    }


def _counted(counts: Sequence[int]) -> dict[str, Any]:
    return {"mean": statistics.mean(counts), "by_number": {str(n): c for n, c in sorted(Counter(counts).items())}}


def _at(values: Sequence[float], share: float) -> float:
    """The value under which a share of sorted values lies (nearest rank)."""
    return values[math.ceil(share * len(values)) - 1]


def _for_people(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for tool, figures in found.items():
        lines.append(tool)
        if figures["requests"]:
            spent = figures["milliseconds"]
            lines.append(
                f"  {figures['requests']} requests, {figures['clicks_a_request']['mean']:.2f} clicks each, "
                f"{figures['empty']:.1%} empty masks"
            )
            lines.append(
                f"  median {spent['median']:.0f} ms, 95% within {spent['p95']:.0f} ms, 99% within {spent['p99']:.0f} ms"
            )
            lines.append(f"  requests by clicks: {_histogram(figures['clicks_a_request'])}")
        if "objects" in figures:
            lines.append(
                f"  {figures['objects']} masks kept, {figures['clicks_an_object']['mean']:.2f} clicks each, "
                f"{figures['first_masks_accepted']:.1%} after the first, {figures['edited']:.1%} edited by hand"
            )
            lines.append(f"  masks kept by clicks: {_histogram(figures['clicks_an_object'])}")
        else:
            lines.append("  which masks were kept is not known: CVAT does not tell; Label Studio does by its webhook")
    return "\n".join(lines)


def _histogram(counted: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} with {number}" for number, count in counted["by_number"].items())
