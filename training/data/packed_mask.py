"""Masks held as run lengths: memory by their outlines, so that many of a large photo fit at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from icmformer.types import BoolMask

from .outlines import BadAnnotationError

LONGEST_NUMBER = 7
"""Characters of a packed run length: 35 bits."""
_AT_ONCE = 32  # merging costs the runs of all before, so many are merged as a tree


@dataclass(frozen=True)
class PackedMask:
    """A mask as run lengths in COCO's order (columns first), packed by pycocotools.

    Attributes:
        height: In pixels.
        width: In pixels.
        counts: COCO's text.
    """

    height: int
    width: int
    counts: bytes

    @classmethod
    def of(cls, mask: BoolMask) -> PackedMask:
        """Packs an (H, W) bool mask."""
        height, width = mask.shape
        return cls(height, width, rle.encode(np.asfortranarray(mask, np.uint8))["counts"])

    @classmethod
    def of_runs(cls, runs: NDArray[np.int64], height: int, width: int) -> PackedMask:
        """Packs run lengths, the first of background, columns first, that add up to the image exactly.

        Empty runs are taken out before pycocotools sees them: merging overflows its memory on them.
        """
        inside = np.arange(runs.size) % 2 == 1
        inside, runs = inside[runs > 0], runs[runs > 0]
        starts = np.flatnonzero(np.diff(inside, prepend=not inside[0]))
        merged = np.add.reduceat(runs, starts).tolist()
        counts = [0, *merged] if inside[0] else merged
        return cls._of_code(rle.frPyObjects({"size": [height, width], "counts": counts}, height, width))

    @classmethod
    def of_ring(cls, points: NDArray[np.float64], height: int, width: int) -> PackedMask:
        """Packs a polygon of points (N, 2) x, y, rasterised as COCO does; memory goes by the length of its outline."""
        return cls._of_code(rle.frPyObjects([points.ravel().tolist()], height, width)[0])

    @classmethod
    def union(cls, masks: Sequence[PackedMask]) -> PackedMask:
        """Packs what any of at least one mask covers."""
        codes = [mask._code for mask in masks]
        while len(codes) > 1:
            codes = [rle.merge(codes[i : i + _AT_ONCE]) for i in range(0, len(codes), _AT_ONCE)]
        return cls._of_code(codes[0])

    @classmethod
    def _of_code(cls, code: dict[str, Any]) -> PackedMask:
        height, width = code["size"]
        return cls(int(height), int(width), code["counts"])

    @property
    def _code(self) -> dict[str, Any]:
        return {"size": [self.height, self.width], "counts": self.counts}

    @cached_property
    def area(self) -> int:
        """Number of its pixels."""
        return int(rle.area(self._code))

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of its pixels, bottom and right exclusive; zeros where there is none."""
        left, top, width, height = map(int, rle.toBbox(self._code))
        return (top, top + height, left, left + width) if self.area else (0, 0, 0, 0)

    def shared(self, other: PackedMask) -> int:
        """Number of pixels of both."""
        return int(rle.area(rle.merge([self._code, other._code], intersect=True)))

    def mask(self) -> BoolMask:
        """The (height, width) bool mask."""
        top, bottom, left, right = self.box
        mask = np.zeros((self.height, self.width), bool)
        if self.area:  # its columns alone are unpacked: pycocotools takes the time of the whole image for any object
            ends = np.cumsum(unpacked_runs(self.counts)).clip(left * self.height, right * self.height)
            inside = np.repeat(np.arange(ends.size) % 2 == 1, np.diff(ends, prepend=left * self.height))
            mask[top:bottom, left:right] = inside.reshape(-1, self.height).T[top:bottom]
        return mask


def unpacked_runs(text: bytes) -> NDArray[np.int64]:
    """The run lengths in COCO's text: from the fourth on as the difference to the one before the last.

    Each number is a row of characters from "0" on: five bits each, the lowest first, bit 6 where more follow; the
    highest bit of the last one is the sign.

    Raises:
        BadAnnotationError: It is no such text.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise BadAnnotationError("packed run lengths that are damaged", "text that is not COCO's, or is cut short")
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LONGEST_NUMBER:
        raise BadAnnotationError("packed run lengths that are damaged", "a number without end")
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs: NDArray[np.int64] = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
