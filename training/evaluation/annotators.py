"""Annotators beside the published one, who always clicks the deepest point of the larger error."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask
from training.evaluation.benchmarks import Truth
from training.simulated_annotator import Clicker as SimulatedAnnotator


class JitteredAnnotator(SimulatedAnnotator):
    """An annotator who clicks in the region that the published one does, but not at its deepest point.

    The click is drawn uniformly from the pixels of that connected region (8 neighbours) whose depth, the distance to
    the region's edge, is at least (1 - spread) of the largest.

    Args:
        truth: (H, W): 1 object, 0 background, -1 ignored.
        spread: 0 clicks among the deepest points alone, 0.5 anywhere at least half as deep, 1 anywhere in the region.
        seed: Of the annotator's randomness: the same seed clicks the same on the same masks.
    """

    def __init__(self, truth: Truth, spread: float, seed: int) -> None:
        super().__init__(truth)
        self._spread, self._rng = spread, np.random.default_rng(seed)

    def _spot(self, depth: NDArray[np.float32]) -> tuple[int, int]:
        deepest = super()._spot(depth)
        _, regions = cv2.connectedComponents((depth > 0).astype(np.uint8), connectivity=8)
        inside = regions == regions[deepest]
        rows, columns = np.nonzero(inside & (depth >= (1 - self._spread) * depth[deepest]))
        picked = int(self._rng.integers(len(rows)))
        return int(rows[picked]), int(columns[picked])


class ScriptedAnnotator(SimulatedAnnotator):
    """An annotator whose clicks are known beforehand, such as those of an earlier session.

    Args:
        truth: (H, W): 1 object, 0 background, -1 ignored.
        clicks: Made in this order, whatever the mask.
    """

    def __init__(self, truth: Truth, clicks: Iterable[PixelClick]) -> None:
        super().__init__(truth)
        self._clicks = iter(clicks)

    def next_click(self, mask: BoolMask) -> PixelClick | None:
        return next(self._clicks, None)
