"""Masks as shapes: clean-up of a mask, and polygons with holes under a point budget. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError, ImageError
from icmformer.runs import MaskRuns
from icmformer.types import BoolMask, Click

Ring = NDArray[np.float64]


@dataclass(frozen=True)
class CleanUp:
    """What to tidy in a mask before it is handed out.

    Called with an (H, W) bool mask and its clicks, it returns a tidied copy; `Engine.segment` takes it as `clean_up`.

    Attributes:
        keep_clicked: Keep only the connected parts that a positive click lies on (all of them if none does).
        fill_holes: Fill holes of at most so many pixels, unless a negative click lies in one; 0 fills none.
        min_area: Drop parts of fewer pixels, unless a positive click lies on them.

    Raises:
        ConfigError: A count that is not a whole number, or less than 0.
    """

    keep_clicked: bool = False
    fill_holes: int = 0
    min_area: int = 0

    def __post_init__(self) -> None:
        counts: dict[str, Any] = {"fill_holes": self.fill_holes, "min_area": self.min_area}
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
                raise ConfigError(f"{name} is a count of pixels, 0 or more, got {count!r:.80}")

    def __call__(self, mask: BoolMask, clicks: Iterable[Click] = ()) -> BoolMask:
        """Returns the tidied copy of an (H, W) bool mask."""
        return self.tidied(MaskRuns.of(mask), clicks).to_mask()

    def tidied(self, runs: MaskRuns, clicks: Iterable[Click] = ()) -> MaskRuns:
        """The same of a mask's runs; the work is that of the mask's box, not of the image.

        Args:
            runs: The mask.
            clicks: In pixels of the image.

        Returns:
            The tidied mask; `runs` itself where there is nothing to do.

        Raises:
            PromptError: A click outside the image.
        """
        if runs.box is None or not (self.keep_clicked or self.min_area or self.fill_holes):
            return runs
        top, bottom, left, right = runs.box
        places: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for click in clicks:
            row, column = click.pixel(*runs.size)
            if top <= row <= bottom and left <= column <= right:
                places[click.positive].append((row - top, column - left))
        mask = runs.crop()
        if self.keep_clicked or self.min_area:
            mask = self._select_parts(mask, places[True])
        if self.fill_holes:
            mask = self._fill(mask, places[False])
        return MaskRuns.of(mask, runs.size, top, left)

    def _select_parts(self, mask: BoolMask, positives: list[tuple[int, int]]) -> BoolMask:
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        clicked = {int(parts[pixel]) for pixel in positives} - {0}
        keep = stats[:, cv2.CC_STAT_AREA] >= self.min_area
        if self.keep_clicked and clicked:
            keep[:] = False
        keep[list(clicked)] = True
        keep[0] = False
        selected: BoolMask = keep[:count][parts]
        return selected

    def _fill(self, mask: BoolMask, negatives: list[tuple[int, int]]) -> BoolMask:
        padded = np.pad(~mask, 1, constant_values=True).view(np.uint8)
        _, gaps, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
        fill = stats[:, cv2.CC_STAT_AREA] <= self.fill_holes
        fill[[0, gaps[0, 0]]] = False  # the mask itself, and what lies around it
        fill[[int(gaps[row + 1, column + 1]) for row, column in negatives]] = False
        filled: BoolMask = mask | fill[gaps][1:-1, 1:-1]
        return filled


@dataclass(frozen=True, eq=False)
class Polygon:
    """One part of a mask. Each is equal to itself alone.

    Attributes:
        exterior: (N, 2) float64 points (x, y) in continuous pixels, not closed, along the pixels' edges.
        holes: Rings of the same form.
    """

    exterior: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def points(self) -> int:
        """Number of points, holes included."""
        return len(self.exterior) + sum(len(hole) for hole in self.holes)


def mask_to_polygons(mask: BoolMask | MaskRuns, max_points: int | None = None) -> list[Polygon]:
    """Outlines a mask.

    Without a budget the outlines follow the pixels' edges exactly: a pixel is in the mask if and only if its middle
    lies inside (even-odd rule). With a budget they are simplified (Douglas-Peucker) by the least tolerance that fits,
    and the smallest rings are dropped where even triangles would not fit.

    Args:
        mask: (H, W) bool, or its runs.
        max_points: Most points over all polygons and holes, at least 4; None for exact outlines.

    Returns:
        Polygons in pixels of the image, largest first; none for an empty mask.

    Raises:
        ImageError: Neither a bool array (H, W) nor runs.
        ConfigError: A budget under 4 points.
    """
    if not isinstance(mask, MaskRuns):
        if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.bool_:
            got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ImageError(f"a mask is a bool array (H, W), got {got}")
        mask = MaskRuns.of(mask)
    if max_points is not None and max_points < 4:
        raise ConfigError(f"a polygon budget starts at 4 points, got {max_points}")
    polygons = _exact_polygons(mask)
    total = sum(p.points for p in polygons)
    if max_points is None or total <= max_points:
        return polygons
    low, high = 0.0, float(max(mask.size))
    for _ in range(24):  # to 1e-7 of the image's side
        middle = (low + high) / 2
        if sum(p.points for p in _simplified(polygons, middle)) > max_points:
            low = middle
        else:
            high = middle
    return _within_budget(_simplified(polygons, high), max_points)


def _exact_polygons(mask: MaskRuns) -> list[Polygon]:
    if mask.box is None:
        return []
    top, _, left, _ = mask.box
    part = mask.crop().view(np.uint8)
    # At twice the size each boundary pixel's quarter maps to exactly one corner of the pixel it belongs to.
    double = np.repeat(np.repeat(part, 2, axis=0), 2, axis=1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners(np.asarray(contour[:, 0, :], np.int64), left, top) for contour in contours]
    polygons = []
    for index, (_next, _previous, child, parent) in enumerate(tree[0]):
        if parent >= 0:
            continue
        holes = []
        while child >= 0:
            holes.append(rings[child])
            child = tree[0][child][0]
        polygons.append(Polygon(rings[index], tuple(holes)))
    return sorted(polygons, key=lambda p: -_area(p.exterior))


def _corners(contour: NDArray[np.int64], left: int, top: int) -> Ring:
    """Contour of a doubled mask -> corner points along pixel edges, without repeats and points on a straight line."""
    points = (contour + 1) // 2 + np.array([left, top])
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    ring: Ring = points[turns].astype(np.float64)
    return ring


def _area(ring: Ring) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _simplify(ring: Ring, tolerance: float) -> Ring | None:
    short: Ring = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, closed=True)[:, 0].astype(np.float64)
    return short if len(short) >= 3 and _area(short) > 0 else None


def _simplified(polygons: list[Polygon], tolerance: float) -> list[Polygon]:
    """Simplifies every ring; a hole that collapses is dropped, an exterior that does becomes its bounding box."""
    result = []
    for polygon in polygons:
        exterior = _simplify(polygon.exterior, tolerance)
        if exterior is None:
            (x1, y1), (x2, y2) = polygon.exterior.min(axis=0), polygon.exterior.max(axis=0)
            exterior = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        holes = (_simplify(hole, tolerance) for hole in polygon.holes)
        result.append(Polygon(exterior, tuple(hole for hole in holes if hole is not None)))
    return result


def _within_budget(polygons: list[Polygon], max_points: int) -> list[Polygon]:
    kept: list[Polygon] = []
    left = max_points
    for polygon in polygons:
        if polygon.points > left:
            polygon = Polygon(polygon.exterior)
        if polygon.points <= left:
            kept.append(polygon)
            left -= polygon.points
    return kept
