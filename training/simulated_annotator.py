"""The simulated annotator, who clicks where a mask is most wrong: of evaluation, validation and training.

Their rules are the same but for these. Evaluation and validation click the deepest point of the larger error, by exact
distances, and no pixel twice (`SimulatedAnnotator`). Training draws the click from the inner half of the larger error,
by distances that a 5 x 5 mask approximates, and may click a pixel again (`sampled_click`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask, FloatMap

IGNORE = -1


class SimulatedAnnotator:
    """The annotator of one object, as the evaluation protocol has it.

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
        missed, extra = self._object & ~mask & self._valid, ~self._object & mask & self._valid
        depths = (_exact(distance_to_edge(wrong, cv2.DIST_MASK_PRECISE)) * self._free for wrong in (missed, extra))
        error = _larger_error(*depths)
        if error is None:
            return None
        depth, positive = error
        row, column = self._spot(depth)
        self._free[row, column] = False
        return PixelClick(row, column, positive)

    def iou(self, mask: BoolMask) -> float:
        """Intersection over union with the truth outside ignored pixels; 1 when both are empty."""
        both = int((mask & self._object & self._valid).sum())
        either = int(((mask | self._object) & self._valid).sum())
        return both / either if either else 1.0

    def _spot(self, depth: FloatMap) -> tuple[int, int]:
        """Row and column to click, from the (H, W) depth of what is wrong."""
        return deepest(depth)


MISSED, EXTRA = 1, 2
"""Values in a map of what is wrong: object that a mask misses, background that it marks."""


def sampled_click(wrong: NDArray[np.uint8], rng: Generator, anywhere: float = 0.0) -> PixelClick | None:
    """Draws a correcting click for training: a pixel of the larger error at over half of its largest depth.

    Nearly all of it runs without the interpreter's lock, so that threads share the clicks of a batch.

    Args:
        wrong: (H, W) uint8: `MISSED`, `EXTRA` or 0.
        rng: Randomness of this sample and round.
        anywhere: Probability that all of the larger error counts, not only what is deep enough.

    Returns:
        The click, or None when nothing is wrong.
    """
    missed, extra = _depth_in_box(wrong == MISSED), _depth_in_box(wrong == EXTRA)
    if not missed.largest and not extra.largest:
        return None
    positive = missed.largest > extra.largest  # a tie goes to the background
    error = missed if positive else extra
    least = 0.0 if anywhere and rng.random() < anywhere else error.largest / 2
    inner = cv2.findNonZero((error.depth > least).view(np.uint8)).reshape(-1, 2)  # columns and rows, by row
    column, row = inner[rng.integers(len(inner))].tolist()
    return PixelClick(row + error.top, column + error.left, positive)


@dataclass(frozen=True)
class _Depth:
    """The depth of a region within its bounding box, its largest value and where the box begins."""

    depth: FloatMap
    largest: float
    top: int
    left: int


def _depth_in_box(region: BoolMask) -> _Depth:
    """What `distance_to_edge` gives, in the box: nothing beyond it is nearer than its edge."""
    left, top, width, height = cv2.boundingRect(region.view(np.uint8))
    if not width:
        return _Depth(np.zeros((1, 1), np.float32), 0.0, 0, 0)
    depth = distance_to_edge(region[top : top + height, left : left + width])
    return _Depth(depth, cv2.minMaxLoc(depth)[1], top, left)


def distance_to_edge(region: BoolMask, mask_size: int = cv2.DIST_MASK_5) -> FloatMap:
    """(H, W) float32: each pixel's distance to the nearest one outside an (H, W) region, which all beyond the map is.

    OpenCV's `DIST_MASK_5` approximates, `DIST_MASK_PRECISE` is exact and slower.
    """
    padded = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, mask_size), np.float32)[1:-1, 1:-1]


def _exact(depth: FloatMap) -> FloatMap:
    """Distances between pixels as roots of whole numbers: OpenCV's last bits, and so ties, depend on its threads."""
    return np.sqrt(np.rint(np.square(depth, dtype=np.float64))).astype(np.float32)


def deepest(depth: FloatMap) -> tuple[int, int]:
    """Row and column of the largest value of an (H, W) map; of several the first in row-major order."""
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return row, column


def any_pixel(region: BoolMask, rng: Generator) -> tuple[int, int]:
    """Row and column of a pixel of an (H, W) region, each as likely."""
    flat = np.flatnonzero(region)
    row, column = divmod(int(flat[rng.integers(len(flat))]), region.shape[1])
    return row, column


def _larger_error(missed: FloatMap, extra: FloatMap) -> tuple[FloatMap, bool] | None:
    """The (H, W) depth of the deeper error and whether that is the missed object; None where nothing is wrong."""
    deepest_missed, deepest_extra = missed.max(), extra.max()
    if max(deepest_missed, deepest_extra) <= 0:
        return None
    positive = bool(deepest_missed > deepest_extra)  # a tie goes to the background
    return missed if positive else extra, positive
