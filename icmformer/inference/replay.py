"""Annotation tools send all clicks of an object with each request, and no mask: the clicks are replayed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from icmformer.images.reading import LoadedImage
from icmformer.inference.cache import Cache
from icmformer.inference.predictor import Prediction, Predictor
from icmformer.inference.roi import ROI, PixelClick, expand
from icmformer.timings import Timings
from icmformer.types import Box

Clicks = tuple[PixelClick, ...]


@dataclass(frozen=True, eq=False)
class Replay:
    """One step a click, on one image and one start; steps taken before come from the cache.

    Attributes:
        predictor: Takes the steps.
        kept: Predictions by `key` and click prefix.
        key: Names network, image and start.
        image: The image.
        timings: Where stages are added.
        start: A mask to correct, or what a box gave; None for clicks alone.
        own: A box's own clicks, which come before the annotator's.
    """

    predictor: Predictor
    kept: Cache[Prediction]
    key: Hashable
    image: LoadedImage
    timings: Timings
    start: Prediction | None = None
    own: Clicks = ()

    def from_box(self, box: Box, guess: Prediction, own: Clicks, clicks: Clicks) -> Replay:
        """The replay of `clicks` on what the network finds in a box, given a first guess and the box's own clicks."""
        there = replace(self, key=(self.key, box))
        found = there._before(())
        if found is None:
            size, zoom, least = guess.size, self.predictor.zoom, self.predictor.serving.min_crop_size
            roi = expand(ROI(*box.pixels(*size)), size, zoom.expansion_ratio, least)
            found = self.predictor.step(self.image, guess, own, self.timings, roi)
            self.kept.put((there.key, ()), found)
        if any(click.positive for click in clicks):
            return replace(there, start=found)
        return replace(there, key=(there.key, len(own)), start=found, own=own)  # made by hand, `own` take another step

    def ordered(self, clicks: Clicks) -> Prediction:
        """The prediction after clicks in their order."""
        clicks, least = (*self.own, *clicks), len(self.own) + 1
        if self.start is None:  # negative clicks before the first positive one count with it
            least = [click.positive for click in clicks].index(True) + 1
        done, prediction = len(clicks), None
        while done >= least and (prediction := self._before(clicks[:done])) is None:
            done -= 1
        prediction = prediction or self.start
        for count in range(max(least, done + 1), len(clicks) + 1):
            prediction = self._step(prediction, clicks[:count])
        assert prediction is not None
        return prediction

    def unordered(self, clicks: Clicks) -> Prediction:
        """The prediction after clicks in the order that an annotator would have had reason for.

        The order within each kind is known, the one between them is not. A click is made where the mask is wrong: of
        the next positive and the next negative one, the one that the mask so far contradicts more comes first.
        """
        done, prediction = self.own, self.start
        waiting = {kind: [click for click in clicks if click.positive == kind] for kind in (True, False)}
        while any(waiting.values()):
            positive = bool(waiting[True])
            if prediction is not None and all(waiting.values()):
                inside, outside = (prediction.at(*waiting[kind][0][:2]) for kind in (True, False))
                positive = 1 - inside >= outside
            done = (*done, waiting[positive].pop(0))
            prediction = self._before(done) or self._step(prediction, done)
        assert prediction is not None
        return prediction

    def _before(self, clicks: Clicks) -> Prediction | None:
        return self.kept.get((self.key, clicks))

    def _step(self, previous: Prediction | None, clicks: Clicks) -> Prediction:
        prediction = self.predictor.step(self.image, previous, clicks, self.timings)
        self.kept.put((self.key, clicks), prediction)
        return prediction
