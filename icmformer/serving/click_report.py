"""The figures of click logs: by tool, and by the version of the model that made the masks."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from icmformer.serving.click_intervals import MeanClicks, difference
from icmformer.serving.version_tags import version_tag

Line = Mapping[str, Any]
_UNKNOWN = ""
"""The tag of masks whose ids have none: made by a server that did not write it yet."""


@dataclass
class _Version:
    """What one version answered, and what of that was kept."""

    first_used: str
    requests: list[Line] = field(default_factory=list)
    kept: list[Line] = field(default_factory=list)
    annotations: list[int] = field(default_factory=list)


def report(lines: Iterable[Line]) -> dict[str, Any]:
    """The figures of click logs.

    Args:
        lines: As `icmformer.serving.click_log.read` gives them.

    Returns:
        By tool: `requests`, `clicks_a_request` (mean, by number), `empty`, `milliseconds` (median, p95, p99); where
        masks are known to be kept also `objects`, `clicks_an_object` (mean, by number), `first_masks_accepted` (share),
        `edited` (share); and `versions`, in the order of their first use.

        Of each version the same figures, and `version` (the model's name; None where it is not known), `tag`,
        `first_used` (time), `annotations`, `clicks_an_object.interval` (95%; None for too few annotations). Of all but
        the first, `against` the one before it: `version`, `difference` of clicks an object, its `interval`, whether
        there are too `few` annotations for a verdict, and `verdict`. Where no masks are known to be kept, `against` has
        the `difference` of clicks a request alone.
    """
    clicks: dict[str, list[Line]] = {}
    saves: dict[str, dict[int, Line]] = {}
    for line in sorted(lines, key=lambda line: str(line["time"])):  # the logs of several servers
        tool = str(line.get("tool", ""))
        made, saved = clicks.setdefault(tool, []), saves.setdefault(tool, {})
        if line["event"] == "click":
            made.append(line)
        else:
            saved[line["annotation"]] = line  # saved again it counts as it was last
    return {tool: _of_a_tool(made, saves[tool].values()) for tool, made in clicks.items()}


def _of_a_tool(made: Sequence[Line], saves: Iterable[Line]) -> dict[str, Any]:
    names = {version_tag(line["model"]): line["model"] for line in made if line.get("model")}
    answered: dict[str, set[str]] = defaultdict(set)  # by region: the tags of the models that made it
    versions: dict[str, _Version] = {}
    for line in made:
        tag = version_tag(line["model"]) if line.get("model") else _UNKNOWN
        versions.setdefault(tag, _Version(line["time"])).requests.append(line)
        if line.get("region"):
            answered[str(line["region"])].add(tag)
    kept: list[Line] = []
    for save in saves:
        for region in save["regions"]:
            tag = region.get("version") or _UNKNOWN
            if region.get("model"):
                names[tag] = region["model"]
            makers = answered.get(region["id"], ())
            if tag == _UNKNOWN and len(makers) == 1:  # an id without a tag, whose click is in the log
                (tag,) = makers
            found = versions.setdefault(tag, _Version(save["time"]))
            found.first_used = min(found.first_used, save["time"])
            found.kept.append(region)
            found.annotations.append(save["annotation"])
            kept.append(region)
    return {**_requests(made), **_objects(kept), "versions": _by_version(versions, names)}


def _by_version(versions: Mapping[str, _Version], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Figures by version, each compared with the one before it that has such figures, too."""
    saves_known = any(found.kept for found in versions.values())
    before: tuple[str, MeanClicks | float] | None = None
    told = []
    for tag, found in sorted(versions.items(), key=lambda item: item[1].first_used):
        name = names.get(tag) if tag else None
        figures: dict[str, Any] = {
            "version": name,
            "tag": tag or None,
            "first_used": found.first_used,
            **_requests(found.requests),
            **_objects(found.kept),
        }
        mean: MeanClicks | float | None = None
        if found.kept:
            mean = MeanClicks.of([region["clicks"] for region in found.kept], found.annotations)
            figures["annotations"] = mean.annotations
            figures["clicks_an_object"]["interval"] = mean.interval
        elif found.requests and not saves_known:
            mean = figures["clicks_a_request"]["mean"]
        if mean is not None and tag:  # what is not known may be several versions
            if before is not None:
                figures["against"] = _against(*before, mean)
            before = name or tag, mean
        told.append(figures)
    return told


def _against(name: str, before: MeanClicks | float, after: MeanClicks | float) -> dict[str, Any]:
    """Of masks kept, or of requests."""
    if not isinstance(before, MeanClicks) or not isinstance(after, MeanClicks):
        return {"version": name, "difference": _mean(after) - _mean(before)}
    found = difference(before, after)
    return {
        "version": name,
        "difference": found.mean,
        "interval": found.interval,
        "few": found.few,
        "verdict": found.verdict,
    }


def _mean(clicks: MeanClicks | float) -> float:
    return clicks.mean if isinstance(clicks, MeanClicks) else clicks


def _requests(made: Sequence[Line]) -> dict[str, Any]:
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


def _objects(kept: Sequence[Line]) -> dict[str, Any]:
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
    return {"mean": statistics.fmean(counts), "by_number": {str(n): c for n, c in sorted(Counter(counts).items())}}


def _at(values: Sequence[float], share: float) -> float:
    """The value under which a share of sorted values lies (nearest rank)."""
    return values[math.ceil(share * len(values)) - 1]
