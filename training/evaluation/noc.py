"""The benchmark figures: number of clicks, failures, mean IoU against clicks, and the area under that curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClickCount:
    """Clicks needed for one IoU.

    Attributes:
        noc: Mean number of clicks until the IoU is first reached, the most clicks played where it never is.
        std: Its population standard deviation over objects.
        failures: Objects whose number is the most clicks, those that reach the IoU just then among them (as published).
        never: Objects that never reach it.
    """

    noc: float
    std: float
    failures: int
    never: int


def click_count(ious: Sequence[Sequence[float]], target: float, max_clicks: int) -> ClickCount:
    """Counts the clicks until `target` is reached; IoUs are compared in float32, as published.

    Args:
        ious: Of each object, the IoU after each click; a play may have stopped at `target` or later.
        target: The IoU.
        max_clicks: Most clicks played.
    """
    counts, never = [], 0
    for sequence in ious:
        reached = np.flatnonzero(np.asarray(sequence, np.float32) >= np.float32(target))
        never += not len(reached)
        counts.append(int(reached[0]) + 1 if len(reached) else max_clicks)
    numbers = np.asarray(counts)
    return ClickCount(float(numbers.mean()), float(numbers.std()), int((numbers == max_clicks).sum()), never)


def mean_iou(ious: Sequence[Sequence[float]], max_clicks: int) -> list[float]:
    """Mean IoU after 1 .. max_clicks clicks; a play that ended early keeps its last IoU."""
    table = np.array([[*s[:max_clicks], *[s[-1]] * (max_clicks - len(s))] for s in ious])
    return [float(value) for value in table.mean(axis=0)]


def area_under_curve(curve: Sequence[float]) -> float:
    """Area under mean IoU against clicks (trapezoid), divided by its width: in [0, 1]."""
    return float(np.trapezoid(curve) / (len(curve) - 1))
