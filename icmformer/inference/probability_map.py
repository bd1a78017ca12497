"""Probability maps over the whole image, computed only where they are asked for.

The network predicts on its own input, a few hundred pixels wide; the image may have fifty million. Most of what happens
between two clicks (where the mask ends, what the next input shows of it) needs a few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from icmformer.inference.roi import ROI, Taps, bounding_box, taps
from icmformer.runs import MaskRuns, Places
from icmformer.types import FloatMap

_ROUNDING = 1e-6  # a blend of two numbers may lie so much above the larger one
_STEEP = 8e-6  # rise from pixel to pixel
_MOVED = 0.2  # pixels that rounding may move a crossing with such a rise: somewhat more than _ROUNDING over _STEEP
_STRIP = 1 << 18  # pixels worked on at once: they stay in the processor's cache


class ProbabilityMap(Protocol):
    """(H, W) probabilities."""

    def pick(self, rows: Places, columns: Places) -> FloatMap:
        """The (len(rows), len(columns)) values at all crossings of rows and columns."""
        ...

    def extent(self, threshold: float) -> ROI | None:
        """The tight box around what lies above a threshold; None where nothing does."""
        ...

    def over(self, threshold: float) -> MaskRuns:
        """The mask of what lies above a threshold."""
        ...

    def full(self) -> FloatMap:
        """All of it."""
        ...


@dataclass(frozen=True, eq=False)
class FullMap:
    """A map that is there in full.

    Attributes:
        frame: (H, W) float32.
    """

    frame: FloatMap

    def pick(self, rows: Places, columns: Places) -> FloatMap:
        return self.frame[rows][:, columns]

    def extent(self, threshold: float) -> ROI | None:
        return bounding_box(self.frame > threshold)

    def over(self, threshold: float) -> MaskRuns:
        return MaskRuns.of(self.frame > threshold)

    def full(self) -> FloatMap:
        return self.frame


@dataclass(frozen=True, eq=False)
class ResizedMap:
    """The network's probabilities resized back to their ROI: bilinear (align_corners), zeros outside it.

    Every value is computed by the same arithmetic whatever else is asked for, so `pick`, `extent`, `over` and `full`
    agree to the last bit.

    Attributes:
        patch: (h, w) float32.
        roi: The ROI that the patch shows.
        size: (H, W) of the image.
    """

    patch: FloatMap
    roi: ROI
    size: tuple[int, int]

    def pick(self, rows: Places, columns: Places) -> FloatMap:
        roi = self.roi
        within_rows = (rows >= roi.row_min) & (rows <= roi.row_max)
        within_columns = (columns >= roi.column_min) & (columns <= roi.column_max)
        if within_rows.all() and within_columns.all():
            return self._values(rows - roi.row_min, columns - roi.column_min)
        picked = np.zeros((len(rows), len(columns)), np.float32)
        values = self._values(rows[within_rows] - roi.row_min, columns[within_columns] - roi.column_min)
        picked[np.ix_(within_rows, within_columns)] = values
        return picked

    def extent(self, threshold: float) -> ROI | None:
        box = self.over(threshold).box
        return None if box is None else ROI(*box)

    def over(self, threshold: float) -> MaskRuns:
        roi = self.roi
        if roi.width < self.patch.shape[1]:  # pixels pass over columns of the patch, and there are few of them
            inside = self._values(np.arange(roi.height), np.arange(roi.width)) > threshold
            return MaskRuns.of(inside, self.size, roi.row_min, roi.column_min)
        rows, columns = self._changes(threshold)
        return MaskRuns(
            self.size, rows[::2] + roi.row_min, columns[::2] + roi.column_min, columns[1::2] + roi.column_min
        )

    def full(self) -> FloatMap:
        frame = np.zeros(self.size, np.float32)
        inside = frame[self.roi.slices]
        blended = self._across(np.arange(self.roi.width))
        for strip in _strips(self.roi.height, self.roi.width):
            inside[strip] = _down(blended, self._row_taps.at(strip))
        return frame

    @cached_property
    def _row_taps(self) -> Taps:
        return taps(0, self.patch.shape[0], self.roi.height)

    @cached_property
    def _column_taps(self) -> Taps:
        return taps(0, self.patch.shape[1], self.roi.width)

    def _values(self, rows: Places, columns: Places) -> FloatMap:
        """The values at all crossings; rows and columns count from the ROI's first."""
        return _down(self._across(columns), self._row_taps.at(rows))

    def _across(self, columns: Places) -> FloatMap:
        """Blends along the rows of the patch: (h, w) -> (h, len(columns)); columns count from the ROI's first."""
        low, high, weight = self._column_taps.at(columns)
        blended: FloatMap = self.patch.take(low, axis=1)
        blended *= 1 - weight
        right = self.patch.take(high, axis=1)
        right *= weight
        blended += right
        return blended

    def _at(self, rows: Places, columns: Places) -> FloatMap:
        """The values at pixels (row, column) of the ROI, one by one."""
        upper, lower, down = self._row_taps.at(rows)
        left, right, across = self._column_taps.at(columns)
        flat, width = self.patch.ravel(), self.patch.shape[1]
        upper, lower, rest = upper * width, lower * width, 1 - across
        above = flat[upper + left] * rest + flat[upper + right] * across
        below = flat[lower + left] * rest + flat[lower + right] * across
        values: FloatMap = above * (1 - down) + below * down
        return values

    def _changes(self, threshold: float) -> tuple[Places, Places]:
        """Where the rows of the ROI go over the threshold and back, row by row: an even number of places in each.

        A blend of four values lies between the least and the largest of them. So only pixels between values of the
        patch on both sides of the threshold need to be looked at, and of these the ones where the blend crosses it.
        """
        height, width = self.roi.height, self.roi.width
        rows, columns = self._candidates(threshold)
        over = self._at(rows, columns) > threshold
        beside = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1] + 1)
        changes = np.flatnonzero(beside & (over[1:] != over[:-1])) + 1
        rows, columns = rows[changes], columns[changes]
        first = np.flatnonzero(self._at(np.arange(height), np.zeros(height, np.int64)) > threshold)
        odd = (np.bincount(rows, minlength=height) + np.bincount(first, minlength=height)) % 2 == 1
        last = np.flatnonzero(odd)  # over the threshold to their end
        line = width + 1  # places of a row, the end being one
        places = np.concatenate((rows * line + columns, first * line, last * line + width))
        return np.divmod(np.sort(places), line)

    def _candidates(self, threshold: float) -> tuple[Places, Places]:
        """Pixels, row by row and ascending: both sides of every place where a row of the ROI crosses the threshold."""
        least, largest = _of_corners(self.patch, np.minimum), _of_corners(self.patch, np.maximum)
        cell_rows, cell_columns = np.nonzero((largest > threshold - _ROUNDING) & (least <= threshold + _ROUNDING))
        # Of each row of the ROI, the cells that it crosses and that lie on both sides.
        cells_before = np.searchsorted(cell_rows, np.arange(len(self.patch) + 1))
        upper = self._row_taps.low
        counts = (cells_before[1:] - cells_before[:-1])[upper]
        rows = np.repeat(np.arange(len(upper)), counts)
        cells = cell_columns[np.repeat(cells_before[upper], counts) + _counted(counts)]
        # The blend is linear across a cell: of those cells, the ones whose ends lie on both sides in this row.
        ends = self._cell_ends(rows, cells)
        low, high = np.minimum(*ends), np.maximum(*ends)
        crossed = np.flatnonzero((high > threshold - _ROUNDING) & (low <= threshold + _ROUNDING))
        rows, cells, (left, right) = rows[crossed], cells[crossed], (end[crossed] for end in ends)
        firsts, stops = self._windows(cells, left, right, threshold)
        line = self.roi.width
        firsts, stops = rows * line + firsts, np.maximum.accumulate(rows * line + stops)
        firsts[1:] = np.maximum(firsts[1:], stops[:-1])  # windows of neighbouring cells overlap
        lengths = np.maximum(stops - firsts, 0)
        return np.divmod(np.repeat(firsts, lengths) + _counted(lengths), line)

    def _cell_ends(self, rows: Places, cells: Places) -> tuple[FloatMap, FloatMap]:
        """The blend in a row of the ROI at both ends of a cell of the patch, but for rounding."""
        upper, lower, down = self._row_taps.at(rows)
        flat, width = self.patch.ravel(), self.patch.shape[1]
        after, rest = np.minimum(cells + 1, width - 1), 1 - down
        upper, lower = upper * width, lower * width
        left: FloatMap = flat[upper + cells] * rest + flat[lower + cells] * down
        right: FloatMap = flat[upper + after] * rest + flat[lower + after] * down
        return left, right

    def _windows(self, cells: Places, left: FloatMap, right: FloatMap, threshold: float) -> tuple[Places, Places]:
        """First and one past last column in which a cell's crossing is sure to lie, with a pixel on both sides of it.

        Where the blend is steep, rounding moves the crossing by a part of a pixel; where it is flat, any may be it.
        """
        width = self.roi.width
        scale = (self.patch.shape[1] - 1) / max(width - 1, 1)  # of the patch's columns to a pixel, at most one
        rise = right.astype(np.float64) - left
        steep = np.abs(rise) * scale > _STEEP
        share = np.clip((threshold - left) / np.where(steep, rise, 1), 0, 1)
        crossing = (cells + share) / scale if scale else cells
        of_cell = np.searchsorted(self._column_taps.low, np.arange(self.patch.shape[1] + 1))
        firsts = np.where(steep, np.floor(crossing - _MOVED), of_cell[cells] - 1).astype(np.int64)
        stops = np.where(steep, np.floor(crossing + _MOVED) + 2, of_cell[cells + 1] + 1).astype(np.int64)
        return np.maximum(firsts, 0), np.minimum(stops, width)


def _down(blended: FloatMap, taps: Taps) -> FloatMap:
    """Blends along the columns: (h, n) -> (places of the taps, n)."""
    values: FloatMap = blended[taps.low]
    values *= (1 - taps.weight)[:, None]
    lower = blended[taps.high]
    lower *= taps.weight[:, None]
    values += lower
    return values


def _of_corners(patch: FloatMap, either: np.ufunc) -> FloatMap:
    """The least or largest of each value, the one to the right, the one below and the one below to the right."""
    found = patch.copy()
    either(found[:, :-1], patch[:, 1:], out=found[:, :-1])
    either(found[:-1], found[1:].copy(), out=found[:-1])
    return found


def _counted(counts: Places) -> Places:
    """0 .. count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _strips(rows: int, width: int) -> Iterator[slice]:
    """Cuts rows of a width into pieces of some `_STRIP` pixels."""
    step = max(1, _STRIP // max(width, 1))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))
