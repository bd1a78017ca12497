"""Outlines, numbers and ids as annotation files have them: checked before anything is drawn."""

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
_MOST_CROSSINGS = 5_000_000


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


def entry_id(value: Any) -> int | str | None:
    """An id of COCO's files to compare by: 1, 1.0 and "1" are one, "01" is another; None for what is no id."""
    number = whole_number(value)
    return number if number is not None else value if isinstance(value, str) else None


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
    """(height, width) bool: pixels whose middle lies inside the ring of points (N, 2) x, y (even-odd rule).

    Raises:
        BadAnnotationError: A ring that crosses more rows than any outline of a photo does.
    """
    inside = np.zeros((height, width), bool)
    start = points - 0.5  # pixel middles at whole numbers
    end = np.roll(start, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first, last = (np.clip(np.ceil(y), 0, height).astype(np.int64) for y in (low, high))  # rows that an edge crosses
    counts = last - first
    total = int(counts.sum())
    if total > _MOST_CROSSINGS:
        raise BadAnnotationError("a polygon that crosses too many rows", f"{total:,}")
    if not total:
        return inside
    edge = np.repeat(np.arange(len(points)), counts)
    rows = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    a, b = start[edge], end[edge]
    at = a[:, 0] + (rows - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    columns = np.clip(np.ceil(at), 0, width).astype(np.int64)  # from here on, the other side of the edge
    top, left = int(rows.min()), int(columns.min())
    down, across = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    places, crossed = np.unique((rows - top) * across + (columns - left), return_counts=True)
    flips = np.zeros(down * across, bool)
    flips[places[crossed % 2 == 1]] = True
    box = np.logical_xor.accumulate(flips.reshape(down, across), axis=1)
    inside[top : top + down, left : left + across] = box[:, : width - left]
    return inside
