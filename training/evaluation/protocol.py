"""Plays the evaluation protocol on one object: the simulated annotator against a predictor, or against an engine as
an annotation tool calls it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer import Box, Click, Engine
from icmformer.errors import ConfigError
from icmformer.images.reading import LoadedImage
from icmformer.inference.engine import THRESHOLD
from icmformer.inference.predictor import Prediction, Predictor
from icmformer.inference.roi import ROI, PixelClick, bounding_box
from icmformer.types import BoolMask, FloatMap
from training.evaluation.benchmarks import Truth
from training.simulated_annotator import Clicker

Served = Literal["ordered", "unordered"]
"""How a tool sends clicks: in their order (Label Studio), or as two lists whose mutual order is lost (CVAT)."""

Answerer = Callable[[Sequence[PixelClick]], tuple[FloatMap, ROI]]
"""All clicks so far -> (H, W) float32 probabilities and the region looked at."""


@dataclass(frozen=True)
class Trace:
    """One play.

    Attributes:
        clicks: (row, column, positive) of each click, in order.
        ious: IoU after each click.
        rois: Region looked at for each click: (row min, row max, column min, column max), inclusive.
        probability: (H, W) float32 after the last click.
        seconds: Time of each answer.
        masks: A digest of the mask after each click: two plays with the same digests made the same masks.
    """

    clicks: list[PixelClick]
    ious: list[float]
    rois: list[ROI]
    probability: FloatMap
    seconds: list[float]
    masks: list[str]


def play(
    answer: Answerer,
    truth: Truth,
    threshold: float = THRESHOLD,
    target_iou: float | None = 0.9,
    max_clicks: int = 20,
    first_mask: BoolMask | None = None,
    watch: Callable[[Sequence[PixelClick], BoolMask, float], None] | None = None,
    clicker: Clicker | None = None,
) -> Trace:
    """Clicks until the target is reached, the clicks are used up, or nothing is wrong any more.

    Args:
        answer: Turns clicks into probabilities.
        truth: (H, W): 1 object, 0 background, -1 ignored.
        threshold: Probability above which a pixel is in the mask.
        target_iou: Where to stop; None plays on.
        max_clicks: Most clicks.
        first_mask: (H, W) bool that the first click corrects; an empty one by default.
        watch: Shown the clicks, the mask and the IoU after each click.
        clicker: The annotator; by default the published one, who clicks in the middle.
    """
    clicker = clicker or Clicker(truth)
    mask = np.zeros(truth.shape, bool) if first_mask is None else first_mask
    probability = np.zeros(truth.shape, np.float32)
    clicks: list[PixelClick] = []
    ious, rois, seconds, masks = [], [], [], []
    while len(clicks) < max_clicks and (click := clicker.next_click(mask)) is not None:
        clicks.append(click)
        start = time.perf_counter()
        probability, roi = answer(clicks)
        seconds.append(time.perf_counter() - start)
        mask = probability > threshold
        ious.append(clicker.iou(mask))
        rois.append(roi)
        masks.append(mask_digest(mask))
        if watch:
            watch(clicks, mask, ious[-1])
        if target_iou is not None and ious[-1] >= target_iou:
            break
    return Trace(clicks, ious, rois, probability, seconds, masks)


def mask_digest(mask: BoolMask) -> str:
    """Names an (H, W) bool mask: the same for the same mask only."""
    return hashlib.blake2b(np.packbits(mask).data, digest_size=8).hexdigest()


class LooseClicker(Clicker):
    """An annotator who clicks the region that the published one does, but not in its middle.

    Args:
        truth: As `Clicker`.
        spread: Share of the region that is clicked, from its middle out: 0 its deepest points alone, 0.5 everything at
            least half as deep, 1 any of its pixels, each as likely.
        seed: Of the annotator's randomness: the same seed clicks the same on the same masks.
    """

    def __init__(self, truth: Truth, spread: float, seed: int) -> None:
        super().__init__(truth)
        self._spread, self._rng = spread, np.random.default_rng(seed)

    def _spot(self, depth: NDArray[np.float32]) -> tuple[int, int]:
        middle = super()._spot(depth)
        _, regions = cv2.connectedComponents((depth > 0).astype(np.uint8), connectivity=8)
        inside = regions == regions[middle]
        rows, columns = np.nonzero(inside & (depth >= (1 - self._spread) * depth[middle]))
        picked = int(self._rng.integers(len(rows)))
        return int(rows[picked]), int(columns[picked])


def protocol(predictor: Predictor, image: LoadedImage) -> Answerer:
    """The published protocol: one step a click, each building on the one before."""
    prediction: Prediction | None = None

    def answer(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        nonlocal prediction
        prediction = predictor.step(image, prediction, clicks)
        return prediction.map.full(), prediction.shown

    return answer


def as_served(engine: Engine, image: LoadedImage, how: Served, box: Box | None = None) -> Answerer:
    """An annotation tool: each request carries all clicks, the box if there is one, and nothing else."""

    def answer(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        if how == "unordered":  # nothing of the order between the kinds gets through
            clicks = sorted(clicks, key=lambda c: not c.positive)
        points = [Click(c.column + 0.5, c.row + 0.5, c.positive) for c in clicks]
        result = engine.segment(image, points, box, ordered=how == "ordered")
        return result.probability, ROI(*result.roi)

    return answer


def box_around(truth: Truth) -> Box:
    """The tight box around an object, as an annotator would draw it."""
    roi = bounding_box(truth == 1)
    if roi is None:
        raise ConfigError("an empty object has no box")
    return Box(roi.column_min, roi.row_min, roi.column_max + 1, roi.row_max + 1)
