"""Which of a task's annotations counts, and who made it when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..reading_report import ReadingReport
from .shapes import OUTLINES, kind_of


@dataclass(frozen=True)
class Chosen:
    """An annotation as the export has it, with what is told of it.

    Attributes:
        result: Its regions.
        ground_truth: Marked as such.
        updated: ISO time in UTC, empty for none.
        annotator: Number or e-mail, empty for none; of a prediction the model's version.
        source: Of regions that do not say it themselves: "prediction", or empty.
    """

    result: list[Any]
    ground_truth: bool = False
    updated: str = ""
    annotator: str = ""
    source: str = ""


def choose(task: Mapping[str, Any], name: str, report: ReadingReport, use_predictions: bool) -> Chosen | None:
    """The annotation of a task that counts.

    One that outlines something comes before one that does not, then ground truth, then the one changed last, then the
    highest number.

    Cancelled ones never count. Drafts and, unless asked for, predictions are none.

    Args:
        task: As `label_studio_tasks` has it.
        name: Of the task, for people.
        report: Is told what was passed over.
        use_predictions: Takes a prediction where there is no annotation.
    """
    listed = _mappings(task.get("annotations"), "annotation without content", name, report)
    kept = []
    for annotation in listed:
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            report.skip("cancelled annotation", f"{_called('annotation', annotation)} of {name}")
        else:
            kept.append(annotation)
    source = ""
    if not kept:
        predictions = task.get("predictions")
        predictions = predictions if isinstance(predictions, list) else []
        if task.get("drafts"):
            report.skip("draft that nobody submitted", name)
        if predictions and not use_predictions:
            report.skip("predictions without an annotation", name, f"{len(predictions)}")
        elif predictions:
            kept = _mappings(predictions, "prediction without content", name, report)
            source = "prediction"
    if not kept:
        return None
    what = source or "annotation"
    best = max(range(len(kept)), key=lambda i: (_order(kept[i]), i))
    chosen = kept[best]
    truth = " (ground truth)" if _is_truth(chosen) else ""
    for place, other in enumerate(kept):
        if place != best:
            report.decide(
                f"{what} passed over for another of its task",
                f"{_called(what, other)} of {name}",
                f"{_called(what, chosen)}{truth}",
            )
    return _read(chosen, source, name, report)


def _read(chosen: Mapping[str, Any], source: str, name: str, report: ReadingReport) -> Chosen:
    result = chosen.get("result")
    if not isinstance(result, list):
        if result is not None:
            report.skip(
                "annotation that cannot be read", f"{_called('annotation', chosen)} of {name}", "no list of regions"
            )
        result = []
    if not source and chosen.get("parent_prediction") is not None:
        source = "prediction"
    moment = _moment(chosen)
    return Chosen(
        result,
        _is_truth(chosen),
        datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds") if math.isfinite(moment) else "",
        _who(chosen),
        source,
    )


def _mappings(value: Any, kind: str, name: str, report: ReadingReport) -> list[Mapping[str, Any]]:
    listed = value if isinstance(value, list) else []
    kept = [item for item in listed if isinstance(item, Mapping)]
    if len(kept) < len(listed):
        report.skip(kind, name, f"{len(listed) - len(kept)}")
    return kept


def _called(what: str, annotation: Mapping[str, Any]) -> str:
    return f"{what} {text_of(annotation.get('id')) or 'without id'}"


def text_of(value: Any) -> str:
    """A short text of a number or a text; empty for anything else."""
    if isinstance(value, str):
        return value[:100]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**30 else "(a huge number)"
    return ""


def _is_truth(annotation: Mapping[str, Any]) -> bool:
    return annotation.get("ground_truth") is True or annotation.get("honeypot") is True  # as it was called once


def _outlines(annotation: Mapping[str, Any]) -> bool:
    result = annotation.get("result")
    regions = result if isinstance(result, list) else []
    values = (region.get("value") for region in regions if isinstance(region, Mapping))
    return any(isinstance(value, Mapping) and kind_of(value) in OUTLINES for value in values)


def _order(annotation: Mapping[str, Any]) -> tuple[bool, bool, float, float]:
    number = annotation.get("id")
    known = isinstance(number, int) and not isinstance(number, bool) and abs(number) < 1 << 62
    return (
        _outlines(annotation),
        _is_truth(annotation),
        _moment(annotation),
        float(number) if known and number is not None else -1.0,
    )


def _moment(annotation: Mapping[str, Any]) -> float:
    """When it was changed last, in seconds; minus infinity where it does not say."""
    for key in ("updated_at", "created_at"):
        value = annotation.get(key)
        try:
            if isinstance(value, str):
                moment = datetime.fromisoformat(value.strip()[:60])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                moment = datetime.fromtimestamp(value, UTC)
            else:
                continue
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return -math.inf


def _who(annotation: Mapping[str, Any]) -> str:
    who = annotation.get("completed_by", annotation.get("model_version", annotation.get("created_username")))
    if isinstance(who, Mapping):
        return text_of(who.get("email")) or text_of(who.get("id"))
    return text_of(who)
