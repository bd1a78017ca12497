"""Masks as their runs: what both tools are sent, without an array of the image's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class MaskRuns:
    """An (H, W) mask as its runs: pixels side by side in one row, from a first column to a last one.

    Runs lie row by row from the top, from left to right, and no two of a row touch: equal masks have equal runs. The
    work of everything but `to_mask` and `crop` is that of the runs.

    Attributes:
        size: (H, W).
        rows: (N,) the row of each run.
        starts: (N,) its first column.
        stops: (N,) the column after its last one.
    """

    size: tuple[int, int]
    rows: Places
    starts: Places
    stops: Places

    @staticmethod
    def of(mask: Mask, size: tuple[int, int] | None = None, top: int = 0, left: int = 0) -> MaskRuns:
        """The runs of an (h, w) bool mask, which may be a part of an image's.

        Args:
            mask: The mask, or a part outside which there is none of it.
            size: (H, W) of the image; by default that of `mask`.
            top: Row of the image where the part begins.
            left: Column of the image where the part begins.
        """
        height, width = mask.shape
        edged = np.zeros((height, width + 2), bool)  # so that no run goes on from one row to the next
        edged[:, 1:-1] = mask
        flat = edged.ravel()
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        rows, columns = np.divmod(changes, width + 2)
        return MaskRuns(size or (height, width), rows[::2] + top, columns[::2] + left, columns[1::2] + left)

    @staticmethod
    def none(size: tuple[int, int]) -> MaskRuns:
        """An empty mask."""
        nowhere = np.zeros(0, np.int64)
        return MaskRuns(size, nowhere, nowhere, nowhere)

    def __bool__(self) -> bool:
        """Whether there is a pixel in the mask."""
        return len(self.rows) > 0

    def __eq__(self, other: object) -> bool:
        """Whether both are the same mask."""
        if not isinstance(other, MaskRuns):
            return NotImplemented
        return self.size == other.size and all(
            np.array_equal(mine, theirs)
            for mine, theirs in zip(
                (self.rows, self.starts, self.stops), (other.rows, other.starts, other.stops), strict=True
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """For people: not the runs themselves."""
        return f"MaskRuns of {len(self.rows)} runs, {self.area} pixels of {self.size[1]} x {self.size[0]}"

    @cached_property
    def area(self) -> int:
        """Pixels in the mask."""
        return int((self.stops - self.starts).sum())

    @property
    def share(self) -> float:
        """Of the image's pixels, those in the mask."""
        return self.area / (self.size[0] * self.size[1])

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """(row min, row max, column min, column max), inclusive, around the mask; None for an empty one."""
        if not self:
            return None
        return int(self.rows[0]), int(self.rows[-1]), int(self.starts.min()), int(self.stops.max()) - 1

    @cached_property
    def joined(self) -> tuple[Places, Places]:
        """First and one past last place of each run in the image read as one line, rows one after the other.

        Runs that meet there, from the last column of a row to the first of the next, are one.
        """
        width = self.size[1]
        return _united(self.rows * width + self.starts, self.rows * width + self.stops)

    def within(self) -> tuple[Places, Places]:
        """As `joined`, of the mask's box read as one line."""
        if self.box is None:
            return self.joined
        top, _, left, right = self.box
        before = (self.rows - top) * (right + 1 - left) - left
        return _united(before + self.starts, before + self.stops)

    def to_mask(self) -> Mask:
        """(H, W) bool."""
        return self._drawn(0, 0, self.size)

    def crop(self) -> Mask:
        """(h, w) bool: what lies in the box; (0, 0) for an empty mask."""
        if self.box is None:
            return np.zeros((0, 0), bool)
        top, bottom, left, right = self.box
        return self._drawn(top, left, (bottom + 1 - top, right + 1 - left))

    def _drawn(self, top: int, left: int, size: tuple[int, int]) -> Mask:
        mask = np.zeros(size, bool)
        flat, before = mask.ravel(), (self.rows - top) * size[1] - left
        for start, stop in zip((before + self.starts).tolist(), (before + self.stops).tolist(), strict=True):
            flat[start:stop] = True
        return mask


def _united(starts: Places, stops: Places) -> tuple[Places, Places]:
    """Ascending runs of one line, those that meet made one."""
    apart = starts[1:] != stops[:-1]
    return starts[np.concatenate(([True], apart))[: len(starts)]], stops[np.concatenate((apart, [True]))[: len(stops)]]
