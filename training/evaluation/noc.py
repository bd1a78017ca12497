"""The figures of interactive segmentation: NoC, NoF, mean IoU against clicks, and the area under that curve.

`ious` are one object's after each click of its session, or those of each object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_CLICKS = 20
"""Most clicks on an object, as published."""
TARGET_IOU = 0.9
"""Where a session stops, as published."""


@dataclass(frozen=True)
class ClickCount:
    """Clicks needed for one IoU.

    Attributes:
        noc: NoC: mean over objects of the clicks until the IoU is first reached; the most clicks allowed where it never
            is.
        std: Its population standard deviation over objects.
        failures: NoF: objects whose number is the most clicks allowed, those that reach the IoU just then among them
            (as published).
        never: Objects that never reach it.
    """

    noc: float
    std: float
    failures: int
    never: int


def clicks_to(ious: Sequence[float], target: float) -> int | None:
    """Clicks until one object first has the IoU `target`, or None; compared in float32, as published."""
    reached = np.flatnonzero(np.asarray(ious, np.float32) >= np.float32(target))
    return int(reached[0]) + 1 if len(reached) else None


def object_noc(ious: Sequence[float], target: float, max_clicks: int = MAX_CLICKS) -> int:
    """NoC of one object: `clicks_to`, the most clicks allowed where it never gets there."""
    return clicks_to(ious, target) or max_clicks


def click_count(ious: Sequence[Sequence[float]], target: float, max_clicks: int = MAX_CLICKS) -> ClickCount:
    """Counts over objects the clicks until `target` is reached; sessions may have stopped there or later."""
    numbers = np.array([object_noc(sequence, target, max_clicks) for sequence in ious])
    never = sum(clicks_to(sequence, target) is None for sequence in ious)
    return ClickCount(float(numbers.mean()), float(numbers.std()), int((numbers == max_clicks).sum()), never)


def reached(ious: Sequence[Sequence[float]], target: float, max_clicks: int = MAX_CLICKS) -> list[float]:
    """Share of objects that have reached the IoU `target` by each of 1 .. max_clicks clicks."""
    needed = [clicks_to(sequence, target) or max_clicks + 1 for sequence in ious]
    return [float(np.mean([number <= clicks for number in needed])) for clicks in range(1, max_clicks + 1)]


def iou_at(ious: Sequence[float], clicks: int) -> float:
    """One object's IoU after so many clicks; a session that ended early keeps its last IoU."""
    return ious[min(clicks, len(ious)) - 1]


def mean_iou_at(ious: Sequence[Sequence[float]], clicks: int) -> float:
    """Mean IoU over objects after so many clicks."""
    return float(np.mean([iou_at(sequence, clicks) for sequence in ious]))


def mean_iou(ious: Sequence[Sequence[float]], max_clicks: int = MAX_CLICKS) -> list[float]:
    """Mean IoU over objects after each of 1 .. max_clicks clicks."""
    table = np.array([[iou_at(sequence, k) for k in range(1, max_clicks + 1)] for sequence in ious])
    return [float(value) for value in table.mean(axis=0)]


def area_under_curve(curve: Sequence[float]) -> float:
    """AuC: area under mean IoU against clicks (trapezoid), divided by its width: in [0, 1]."""
    return float(np.trapezoid(curve) / (len(curve) - 1))
