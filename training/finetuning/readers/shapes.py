"""Outlines that several tools have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icmformer.types import BoolMask
from training.finetuning.readers.annotations import BadAnnotationError

_FARTHEST = 1e7
"""Pixels from the origin; no photo is as large, and what lies beyond is no slip of the mouse."""
_MOST_POINTS = 200_000


@dataclass(frozen=True)
class Polygon:
    """A ring x1, y1, x2, y2, ... of continuous pixels: the pixels whose middle lies inside (even-odd rule)."""

    ring: Sequence[float]

    def draw(self, height: int, width: int) -> BoolMask:
        return polygon_mask(checked_points(self.ring), height, width)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse in continuous pixels.

    Attributes:
        middle: x and y.
        radii: Along x and y before the turn.
        degrees: Turned by, clockwise as it is seen.
    """

    middle: tuple[float, float]
    radii: tuple[float, float]
    degrees: float = 0.0

    def draw(self, height: int, width: int) -> BoolMask:
        (x, y), (rx, ry) = self.middle, self.radii
        finite(x, y, rx, ry, self.degrees)
        if rx <= 0 or ry <= 0:
            raise BadAnnotationError("no extent", f"an ellipse with radii {rx:g} and {ry:g}")
        turn = math.radians(self.degrees)
        cos, sin = math.cos(turn), math.sin(turn)
        across, down = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        inside = np.zeros((height, width), bool)
        top, bottom = _span(y - down, y + down, height)
        left, right = _span(x - across, x + across, width)
        dy, dx = np.arange(top, bottom)[:, None] + 0.5 - y, np.arange(left, right)[None] + 0.5 - x
        inside[top:bottom, left:right] = ((dx * cos + dy * sin) / rx) ** 2 + ((dy * cos - dx * sin) / ry) ** 2 <= 1
        return inside


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    return max(0, math.floor(low)), max(0, min(size, math.ceil(high)))


def finite(*numbers: float) -> None:
    """Checks coordinates.

    Raises:
        BadAnnotationError: One is NaN, infinite, or farther off than any photo is large.
    """
    for number in numbers:
        if not math.isfinite(number):
            raise BadAnnotationError("a coordinate that is no number", str(number))
        if abs(number) > _FARTHEST:
            raise BadAnnotationError("a coordinate far outside the photo", f"{number:g}")


def checked_points(ring: Sequence[float]) -> NDArray[np.float64]:
    """(N, 2) points x, y of a ring x1, y1, x2, y2, ...

    Raises:
        BadAnnotationError: Fewer than three points, half a point, no numbers, or numbers that no photo has.
    """
    if len(ring) > 2 * _MOST_POINTS:
        raise BadAnnotationError("a polygon of too many points", f"{len(ring) // 2:,}")
    try:
        numbers = np.asarray(ring, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadAnnotationError("a coordinate that is no number", str(error)) from error
    if numbers.ndim != 1 or numbers.size % 2:
        raise BadAnnotationError("a polygon that is no list of points")
    if numbers.size < 6:
        raise BadAnnotationError("fewer than three points", f"{numbers.size // 2}")
    if not np.isfinite(numbers).all():
        raise BadAnnotationError("a coordinate that is no number", "NaN or infinite")
    finite(float(np.abs(numbers).max()))
    return numbers.reshape(-1, 2)


def polygon_mask(points: NDArray[np.float64], height: int, width: int) -> BoolMask:
    """(height, width) bool: pixels whose middle lies inside the ring of points (N, 2) x, y (even-odd rule)."""
    points = points - 0.5  # pixel middles at whole numbers
    following = np.roll(points, -1, axis=0)
    inside = np.zeros((height, width), bool)
    columns = np.arange(width)
    for row in range(max(0, int(np.floor(points[:, 1].min()))), min(height - 1, int(np.ceil(points[:, 1].max()))) + 1):
        crosses = (points[:, 1] <= row) != (following[:, 1] <= row)
        if crosses.any():
            a, b = points[crosses], following[crosses]
            at = np.sort(a[:, 0] + (row - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1]))
            inside[row] = np.searchsorted(at, columns, side="right") % 2 == 1
    return inside
