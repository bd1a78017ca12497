"""The predictor: one step a click, from the clicks so far and the last prediction to the next one.

This is the published predictor ("NoBRS" with zoom-in, previous mask and flip) as a pure function. The evaluator, both
servers and the command line all go through here.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icmformer import memory
from icmformer.images.reading import LoadedImage
from icmformer.inference.backends.base import Backend
from icmformer.inference.cache import Cache, NullCache
from icmformer.inference.probability_map import FullMap, ProbabilityMap, ResizedMap
from icmformer.inference.roi import (
    ROI,
    PixelClick,
    ZoomSettings,
    choose_roi,
    crop,
    crop_picked,
    map_clicks,
    mirror_points,
    whole,
)
from icmformer.models import ImageFeatures
from icmformer.timings import Timings
from icmformer.types import FloatMap
from icmformer.weights.serving_defaults import AS_PUBLISHED, ServingDefaults

_SERIAL = 1 << 14  # values that torch works on in one thread, which leaves none behind that spins
_RELEASE_EVERY = 32  # crops encoded between two times that freed memory is given back


@dataclass(frozen=True, eq=False)
class Prediction:
    """The probabilities of one object, as small as they came out: what the next step builds on.

    Attributes:
        patch: (h, w) float32 probabilities of the network's input; of all pixels where there is no ROI.
        size: (H, W) of the image.
        roi: The ROI that the patch shows; None for a mask that was given, and for a step that saw the whole image at
            its own size.
        guess: A map to start from that no network made, instead of the patch.
    """

    patch: FloatMap
    size: tuple[int, int]
    roi: ROI | None = None
    guess: ProbabilityMap | None = None

    @staticmethod
    def given(mask: FloatMap) -> Prediction:
        """A mask to start from, as (H, W) float32 probabilities."""
        return Prediction(mask, (mask.shape[0], mask.shape[1]))

    @property
    def nbytes(self) -> int:
        """Bytes held, for bounded caches."""
        return self.patch.nbytes

    @property
    def shown(self) -> ROI:
        """The part of the image that the patch shows: the ROI, or all of it."""
        return self.roi or whole(*self.size)

    @property
    def map(self) -> ProbabilityMap:
        """The probabilities over the whole image; made anew each time, so that what is kept stays small."""
        if self.guess:
            return self.guess
        return FullMap(self.patch) if self.roi is None else ResizedMap(self.patch, self.roi, self.size)

    def at(self, row: int, column: int) -> float:
        """The probability at a pixel of the image, 0 outside the ROI: that of the nearest pixel of the patch."""
        if self.guess:
            return float(self.guess.pick(np.array([row]), np.array([column]))[0, 0])
        shown = self.shown
        row, column = row - shown.row_min, column - shown.column_min
        if not (0 <= row < shown.height and 0 <= column < shown.width):
            return 0.0
        rows, columns = self.patch.shape
        y = round(row * (rows - 1) / max(shown.height - 1, 1))
        x = round(column * (columns - 1) / max(shown.width - 1, 1))
        return float(self.patch[y, x])


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network with the settings by which clicks become a mask.

    Hits and misses of the feature cache take the same two passes on the same shapes, so they give the same bits.

    Attributes:
        backend: Runs the network.
        zoom: How the ROI is chosen.
        flip: Whether the network sees the mirror image too and the logits are averaged.
        serving: The rest, which belongs to the weights; the published path by default.
        features: Keeps the features of encoded crops.
        identity: Names the network in the cache, so that predictors may share one.
    """

    backend: Backend
    zoom: ZoomSettings
    flip: bool = False
    serving: ServingDefaults = AS_PUBLISHED
    features: Cache[ImageFeatures] = field(default_factory=NullCache)
    identity: Hashable = None
    _encoded: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    def step(
        self,
        image: LoadedImage,
        previous: Prediction | None,
        clicks: Sequence[PixelClick],
        timings: Timings | None = None,
        roi: ROI | None = None,
    ) -> Prediction:
        """One run of the network, or two for a first click with a refinement pass.

        Args:
            image: The image.
            previous: What the last step gave, or a mask to start from; None where there is nothing yet.
            clicks: All clicks so far, in order.
            timings: Where stages are added.
            roi: The ROI, instead of the one that previous mask and clicks ask for.

        Returns:
            The last run's prediction.
        """
        timings = Timings() if timings is None else timings
        chosen = roi or self._roi(image, previous, clicks, timings)
        prediction = self._run(image, previous, clicks, chosen, timings)
        if self.serving.refinement_pass and previous is None and roi is None:
            closer = self._roi(image, prediction, clicks, timings, refinement=True)
            if closer != prediction.roi:
                prediction = self._run(image, prediction, clicks, closer, timings)
        return prediction

    def prefetch(self, image: LoadedImage) -> ImageFeatures:
        """Encodes what the first click on any object of the image asks for."""
        roi = whole(*image.pixels.shape[:2])
        return self._features(image, roi, self.zoom.input_size(roi), Timings())

    def _roi(
        self,
        image: LoadedImage,
        previous: Prediction | None,
        clicks: Sequence[PixelClick],
        timings: Timings,
        refinement: bool = False,
    ) -> ROI | None:
        height, width = image.pixels.shape[:2]
        with timings.stage("roi"):
            box = None if previous is None else previous.map.extent(self.zoom.mask_threshold)
            kept = None if previous is None else previous.roi
            least, ratio = self.serving.zoom_at(1 if refinement else len(clicks))
            zoom = self.zoom if ratio is None else replace(self.zoom, expansion_ratio=ratio)
            return choose_roi(box, kept, clicks, (height, width), zoom, least)

    def _run(
        self,
        image: LoadedImage,
        previous: Prediction | None,
        clicks: Sequence[PixelClick],
        roi: ROI | None,
        timings: Timings,
    ) -> Prediction:
        frame = image.pixels.shape[0], image.pixels.shape[1]
        shown = roi or whole(*frame)
        size = self.zoom.input_size(shown) if roi else frame
        with timings.stage("crop"):
            cut = np.zeros(size, np.float32) if previous is None else crop_picked(previous.map.pick, shown, size)
            prev_mask = self._views(cut[None, None])
            points = map_clicks(clicks, shown, size, self.serving.click_margin)
            if self.flip:
                points = torch.cat((points, mirror_points(points, size[1])))
        features = self._features(image, shown, size, timings)
        logits = self.backend.decode_in_turn(features, prev_mask, points, timings)
        with timings.stage("decode"):
            return Prediction(_probabilities(logits.numpy()), frame, roi)

    def _features(self, image: LoadedImage, shown: ROI, size: tuple[int, int], timings: Timings) -> ImageFeatures:
        """The features of a crop, from the cache or encoded now."""
        key = (self.identity, self.backend.identity, image.digest, shown, size, self.flip)
        kept = self.features.get(key)
        if kept is not None:
            return kept
        with timings.stage("crop"):
            pixels = crop(image.pixels, shown, size).transpose(2, 0, 1)  # (h, w, 3) -> (3, h, w)
            views = self._views(pixels[None] / np.float32(255))
        with self.backend.turn(timings):
            meanwhile = self.features.peek(key)  # somebody else may have encoded it while this one waited
            if meanwhile is not None:
                return meanwhile
            with timings.stage("encode"):
                features = self.backend.encode(views)
            self.features.put(key, features)
        if next(self._encoded) % _RELEASE_EVERY == 0:
            with timings.stage("release"):
                memory.release()
        return features

    def _views(self, x: NDArray[np.float32]) -> Tensor:
        """(1, C, h, w), and its mirror image below it where both are seen."""
        return torch.from_numpy(np.concatenate((x, x[..., ::-1])) if self.flip else x)


def _probabilities(logits: NDArray[np.float32]) -> FloatMap:
    """(1, 1, h, w) logits, or two with those of the mirror image, which are averaged -> (h, w) probabilities."""
    if len(logits) == 2:
        logits = (logits[:1] + logits[1:, :, :, ::-1]) / np.float32(2)
    probabilities = np.empty(logits.shape[2:], np.float32)
    given, out = (torch.from_numpy(array.reshape(-1)) for array in (logits, probabilities))
    for start in range(0, len(out), _SERIAL):
        torch.sigmoid(given[start : start + _SERIAL], out=out[start : start + _SERIAL])
    return probabilities
