"""The simulated annotator: clicks where the mask is most wrong (the evaluation protocol's oracle)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask

IGNORE = -1


class Clicker:
    """Plays the annotator of one object.

    Args:
        truth: (H, W) integers: 1 object, -1 ignored, anything else background.
    """

    def __init__(self, truth: NDArray[np.integer]) -> None:
        self._object = truth == 1
        self._valid = truth != IGNORE
        self._free = np.ones(truth.shape, bool)

    def next_click(self, mask: BoolMask) -> PixelClick | None:
        """The next click for an (H, W) bool mask, or None when nothing is wrong that could be clicked.

        The click goes to the deepest point (Euclidean distance, one pixel of padding) of the missed object or of the
        wrongly marked background, whichever is deeper; a tie goes to the background. Ignored pixels do not count, and
        a pixel is clicked once.
        """
        missed = self._depth(self._object & ~mask & self._valid)
        extra = self._depth(~self._object & mask & self._valid)
        positive = bool(missed.max() > extra.max())
        depth = missed if positive else extra
        if depth.max() <= 0:
            return None
        row, column = self._spot(depth)
        self._free[row, column] = False
        return PixelClick(row, column, positive)

    def iou(self, mask: BoolMask) -> float:
        """Intersection over union with the truth outside ignored pixels; 1 when both are empty."""
        both = int((mask & self._object & self._valid).sum())
        either = int(((mask | self._object) & self._valid).sum())
        return both / either if either else 1.0

    def _spot(self, depth: NDArray[np.float32]) -> tuple[int, int]:
        """Row and column to click, from the (H, W) depth of what is wrong."""
        row, column = divmod(int(depth.argmax()), depth.shape[1])
        return row, column

    def _depth(self, wrong: BoolMask) -> NDArray[np.float32]:
        padded = np.pad(wrong, 1).astype(np.uint8)
        distance = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 0), np.float32)
        return distance[1:-1, 1:-1] * self._free
