"""Outlines and numbers as annotation files have them: checked before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError
from icmformer.types import BoolMask

_FARTHEST = 1e7
"""Pixels from the origin; no photo is as large, and what lies beyond is no slip of the mouse."""
_MOST_POINTS = 200_000


class BadAnnotationError(ConfigError):
    """One annotation that cannot be used; it costs itself alone.

    Attributes:
        kind: In a few words, the same for all such annotations, under which they are counted.
    """

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind, self.text = kind, text


def whole_number(value: Any) -> int | None:
    """A whole number as files write it, 7, 7.0 or "7"; None for anything else, "007" too."""
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 20:
        return int(value) if str(int(value)) == value else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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
