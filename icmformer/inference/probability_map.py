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
from numpy.typing import NDArray

from icmformer.inference.roi import ROI, Taps, bounding_box, taps
from icmformer.types import BoolMask, FloatMap

_ROUNDING = 1e-6  # a blend of two numbers may lie so much above the larger one
_STRIP = 1 << 18  # pixels worked on at once: they stay in the processor's cache

Places = NDArray[np.int64]


class ProbabilityMap(Protocol):
    """(H, W) probabilities."""

    def pick(self, rows: Places, columns: Places) -> FloatMap:
        """The (len(rows), len(columns)) values at all crossings of rows and columns."""
        ...

    def extent(self, threshold: float) -> ROI | None:
        """The tight box around what lies above a threshold; None where nothing does."""
        ...

    def over(self, threshold: float) -> BoolMask:
        """(H, W) bool: what lies above a threshold."""
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
        return bounding_box(self.over(threshold))

    def over(self, threshold: float) -> BoolMask:
        return self.frame > threshold

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
        picked = np.zeros((len(rows), len(columns)), np.float32)
        blended = self._across(columns[within_columns] - roi.column_min)
        values = _down(blended, self._row_taps.at(rows[within_rows] - roi.row_min))
        picked[np.ix_(within_rows, within_columns)] = values
        return picked

    def extent(self, threshold: float) -> ROI | None:
        window = self._window(threshold)
        if window is None:
            return None
        rows = self._ends(self._row_strips(window, threshold), self._row_strips(window, threshold, backwards=True))
        if rows is None:
            return None
        columns = self._ends(
            self._column_strips(window, threshold), self._column_strips(window, threshold, backwards=True)
        )
        assert columns is not None
        top, left = self.roi.row_min, self.roi.column_min
        return ROI(top + rows[0], top + rows[1], left + columns[0], left + columns[1])

    def over(self, threshold: float) -> BoolMask:
        mask = np.zeros(self.size, bool)
        window = self._window(threshold)
        if window is not None:
            inside = mask[self.roi.slices][:, window.slices[1]]
            blended = self._across(np.arange(window.column_min, window.column_max + 1))
            for strip in _strips(window.row_min, window.row_max + 1, window.width):
                np.greater(_down(blended, self._row_taps.at(strip)), threshold, out=inside[strip])
        return mask

    def full(self) -> FloatMap:
        frame = np.zeros(self.size, np.float32)
        inside = frame[self.roi.slices]
        blended = self._across(np.arange(self.roi.width))
        for strip in _strips(0, self.roi.height, self.roi.width):
            inside[strip] = _down(blended, self._row_taps.at(strip))
        return frame

    @cached_property
    def _row_taps(self) -> Taps:
        return taps(0, self.patch.shape[0], self.roi.height)

    @cached_property
    def _column_taps(self) -> Taps:
        return taps(0, self.patch.shape[1], self.roi.width)

    def _across(self, columns: Places) -> FloatMap:
        """Blends along the rows of the patch: (h, w) -> (h, len(columns)); columns count from the ROI's first."""
        low, high, weight = self._column_taps.at(columns)
        blended: FloatMap = self.patch[:, low] * (1 - weight) + self.patch[:, high] * weight
        return blended

    def _window(self, threshold: float) -> ROI | None:
        """A part of the ROI, counted from its corner, outside which nothing can lie above the threshold."""
        above = self.patch > threshold - _ROUNDING
        box = bounding_box(above)
        if box is None:
            return None
        low, high, _ = self._row_taps
        rows = np.flatnonzero((high >= box.row_min) & (low <= box.row_max))
        low, high, _ = self._column_taps
        columns = np.flatnonzero((high >= box.column_min) & (low <= box.column_max))
        if not len(rows) or not len(columns):  # an ROI smaller than the patch passes over some of it
            return None
        return ROI(int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))

    def _row_strips(self, window: ROI, threshold: float, backwards: bool = False) -> Iterator[Places]:
        """The rows above the threshold somewhere, strip by strip from one end of the window."""
        blended = self._across(np.arange(window.column_min, window.column_max + 1))
        for strip in _strips(window.row_min, window.row_max + 1, 4 * window.width, backwards):
            values = _down(blended, self._row_taps.at(strip))
            yield strip.start + np.flatnonzero((values > threshold).any(1))

    def _column_strips(self, window: ROI, threshold: float, backwards: bool = False) -> Iterator[Places]:
        rows = slice(window.row_min, window.row_max + 1)
        taps = self._row_taps.at(rows)
        for strip in _strips(window.column_min, window.column_max + 1, 4 * window.height, backwards):
            values = _down(self._across(np.arange(strip.start, strip.stop)), taps)
            yield strip.start + np.flatnonzero((values > threshold).any(0))

    @staticmethod
    def _ends(forwards: Iterator[Places], backwards: Iterator[Places]) -> tuple[int, int] | None:
        first = next((int(found[0]) for found in forwards if len(found)), None)
        if first is None:
            return None
        return first, next(int(found[-1]) for found in backwards if len(found))


def _down(blended: FloatMap, taps: Taps) -> FloatMap:
    """Blends along the columns: (h, n) -> (places of the taps, n)."""
    values: FloatMap = blended[taps.low]
    values *= (1 - taps.weight)[:, None]
    lower = blended[taps.high]
    lower *= taps.weight[:, None]
    values += lower
    return values


def _strips(start: int, stop: int, width: int, backwards: bool = False) -> Iterator[slice]:
    """Cuts start .. stop into pieces of some `_STRIP` pixels, `width` of them to a line."""
    step = max(1, _STRIP // max(width, 1))
    pieces = [slice(first, min(first + step, stop)) for first in range(start, stop, step)]
    return iter(reversed(pieces) if backwards else pieces)
