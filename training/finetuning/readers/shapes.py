"""Outlines that several tools have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icmformer.types import BoolMask

from ...data.outlines import BadAnnotationError, checked_points, finite, polygon_mask


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
