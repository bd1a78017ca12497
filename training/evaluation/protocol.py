"""The evaluation protocol: a simulated session on one object, with an annotator on one side and masks on the other.

`simulate` is the one session loop. What makes the masks is a `Predict`: the published steps of a predictor
(`Stepwise`), an engine as an annotation tool calls it (`as_served`), a CVAT function (`by_function`), or anything else
that turns clicks into probabilities.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from icmformer import Box, Click, Engine
from icmformer.errors import ConfigError
from icmformer.images.reading import LoadedImage
from icmformer.inference.backends.base import CallableBackend
from icmformer.inference.predictor import Prediction, Predictor
from icmformer.inference.roi import ROI, PixelClick, ZoomSettings, bounding_box, whole
from icmformer.serving.client import Ask, ServedImage
from icmformer.types import BoolMask, FloatMap
from icmformer.weights.serving_defaults import THRESHOLD

from ..simulated_annotator import SimulatedAnnotator
from .benchmarks import Truth
from .noc import MAX_CLICKS

ClickOrder = Literal["ordered", "unordered"]
"""How a tool sends clicks: in their order (Label Studio), or as two lists whose mutual order is lost (CVAT)."""

Predict = Callable[[Sequence[PixelClick]], tuple[FloatMap, ROI]]
"""All clicks so far -> (H, W) float32 probabilities, and the ROI that the network saw."""

Observe = Callable[[Sequence[PixelClick], BoolMask, float], None]
"""Shown all clicks so far, the (H, W) mask and its IoU after each click."""

_UNZOOMED = 10**9


@dataclass(frozen=True)
class Session:
    """A simulated session on one object.

    Attributes:
        clicks: (row, column, positive) of each click, in order.
        ious: IoU after each click.
        rois: What the network saw at each click: (row min, row max, column min, column max), inclusive.
        probability: (H, W) float32 after the last click.
        mask: (H, W) bool after the last click.
        seconds: Time of each prediction.
        masks: A digest of the mask after each click: two sessions with the same digests made the same masks.
    """

    clicks: list[PixelClick]
    ious: list[float]
    rois: list[ROI]
    probability: FloatMap
    mask: BoolMask
    seconds: list[float]
    masks: list[str]


def simulate(
    predict: Predict,
    truth: Truth,
    threshold: float,
    target_iou: float | None = 0.9,
    max_clicks: int = MAX_CLICKS,
    initial_mask: BoolMask | None = None,
    observe: Observe | None = None,
    annotator: SimulatedAnnotator | None = None,
) -> Session:
    """Clicks until the target is reached, the clicks are used up, or nothing is wrong any more.

    Args:
        predict: Turns clicks into probabilities.
        truth: (H, W): 1 object, 0 background, -1 ignored.
        threshold: Probability above which a pixel is in the mask.
        target_iou: Where to stop; None goes on.
        max_clicks: Most clicks.
        initial_mask: (H, W) bool that the first click corrects; an empty one by default.
        observe: Called after each click.
        annotator: By default the published one.
    """
    annotator = annotator or SimulatedAnnotator(truth)
    mask = np.zeros(truth.shape, bool) if initial_mask is None else initial_mask
    probability = np.zeros(truth.shape, np.float32)
    clicks: list[PixelClick] = []
    ious, rois, seconds, masks = [], [], [], []
    while len(clicks) < max_clicks and (click := annotator.next_click(mask)) is not None:
        clicks.append(click)
        start = time.perf_counter()
        probability, roi = predict(clicks)
        seconds.append(time.perf_counter() - start)
        mask = probability > threshold
        ious.append(annotator.iou(mask))
        rois.append(roi)
        masks.append(mask_digest(mask))
        if observe:
            observe(clicks, mask, ious[-1])
        if target_iou is not None and ious[-1] >= target_iou:
            break
    return Session(clicks, ious, rois, probability, mask, seconds, masks)


def mask_digest(mask: BoolMask) -> str:
    """Names an (H, W) bool mask: the same for the same mask only."""
    return hashlib.blake2b(np.packbits(mask).data, digest_size=8).hexdigest()


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


class Stepwise:
    """The published protocol: one step of the predictor a click, each building on the one before.

    Attributes:
        prediction: Of the last step; None before the first.
    """

    def __init__(self, predictor: Predictor, image: LoadedImage) -> None:
        self._predictor, self._image = predictor, image
        self.prediction: Prediction | None = None

    def __call__(self, clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        """See `Predict`."""
        self.prediction = self._predictor.step(self._image, self.prediction, clicks)
        return self.prediction.map.full(), self.prediction.shown


def as_served(engine: Engine, image: LoadedImage, order: ClickOrder, box: Box | None = None) -> Predict:
    """An annotation tool: each request carries all clicks, the box if there is one, and nothing else."""

    def predict(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        if order == "unordered":  # nothing of the order between the kinds gets through
            clicks = sorted(clicks, key=lambda c: not c.positive)
        result = engine.segment(image, pixel_middles(clicks), box, ordered=order == "ordered")
        return result.probability, ROI(*result.roi)

    return predict


def by_function(ask: Ask, image: LoadedImage) -> Predict:
    """A CVAT function, which gets what CVAT sends and nothing else; its masks are probabilities of 0 and 1."""
    served, frame = ServedImage(image, ask), whole(*image.pixels.shape[:2])
    return lambda clicks: (served.segment(pixel_middles(clicks)).astype(np.float32), frame)


def pixel_middles(clicks: Sequence[PixelClick]) -> list[Click]:
    """The clicks as an annotation tool sends them, in the middle of their pixels."""
    return [Click(c.column + 0.5, c.row + 0.5, c.positive) for c in clicks]


def box_around(truth: Truth) -> Box:
    """The tight box around an object, as an annotator would draw it."""
    roi = bounding_box(truth == 1)
    if roi is None:
        raise ConfigError("an empty object has no box")
    return Box(roi.column_min, roi.row_min, roi.column_max + 1, roi.row_max + 1)


def trace(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    image: NDArray[np.uint8],
    gt_mask: NDArray[np.integer],
    zoom_in: Mapping[str, Any] | None,
    flip: bool = True,
    threshold: float = THRESHOLD,
    target_iou: float | None = 0.9,
    max_clicks: int = MAX_CLICKS,
) -> Session:
    """Simulates a session of the published protocol on one object with any network.

    Args:
        network: `network(image, prev_mask, points) -> logits`, as `icmformer.models.ClickNetwork`.
        image: (H, W, 3) uint8 RGB.
        gt_mask: (H, W): 1 object, 0 background, -1 ignored.
        zoom_in: Fields of `ZoomSettings` (`skip_clicks`, `target_size`, ...); None shows the network the whole image.
        flip: Average with the mirror image.
        threshold: As for `simulate`, like `target_iou` and `max_clicks`.
        target_iou: Where to stop.
        max_clicks: Most clicks.
    """
    settings: dict[str, Any] = dict(zoom_in) if zoom_in is not None else {"skip_clicks": _UNZOOMED}
    size = settings.get("target_size")
    if size is not None and not isinstance(size, int):
        settings["target_size"] = tuple(size)
    predictor = Predictor(CallableBackend(network), ZoomSettings(**settings), flip)
    predict = Stepwise(predictor, LoadedImage.from_array(image))
    return simulate(predict, np.asarray(gt_mask, np.int32), threshold, target_iou, max_clicks)
