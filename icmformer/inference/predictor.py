"""The click path: how clicks, one after the other, become a mask.

This is the published predictor ("NoBRS" with zoom-in, previous mask and flip) as a pure function of a state and the
clicks so far. The evaluator, both servers and the command line all go through here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icmformer.images.reading import LoadedImage
from icmformer.inference.probability_map import Pasted, ProbabilityMap, Whole
from icmformer.inference.roi import (
    ROI,
    PixelClick,
    ZoomSettings,
    crop,
    crop_picked,
    keeps,
    map_clicks,
    mirror_points,
    object_roi,
    whole,
)
from icmformer.inference.runner import Runner, SplitRunner
from icmformer.timings import Timings
from icmformer.types import FloatMap


@dataclass(frozen=True)
class Answer:
    """What one pass of the network gave, as small as it came out.

    Attributes:
        roi: The region the network looked at.
        object_roi: The region to go on with: the same, or None when the pass saw the whole image unzoomed.
        patch: (h, w) float32 probabilities of the network's input.
        frame_size: (H, W) of the image.
    """

    roi: ROI
    object_roi: ROI | None
    patch: FloatMap
    frame_size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes held, for bounded caches."""
        return self.patch.nbytes

    def at(self, row: int, column: int) -> float:
        """The probability at a pixel of the image, 0 outside the region: that of the nearest one of the patch."""
        roi = self.roi
        height, width = roi.row_max - roi.row_min + 1, roi.column_max - roi.column_min + 1
        row, column = row - roi.row_min, column - roi.column_min
        if not (0 <= row < height and 0 <= column < width):
            return 0.0
        rows, columns = self.patch.shape
        y = round(row * (rows - 1) / max(height - 1, 1))
        x = round(column * (columns - 1) / max(width - 1, 1))
        return float(self.patch[y, x])

    @property
    def map(self) -> Pasted:
        """The probabilities over the whole image; made anew each time, so that what is kept stays small."""
        return Pasted(self.patch, self.roi, self.frame_size)

    def state(self) -> State:
        """The state after this pass."""
        return State(self.object_roi, self.map, self)


@dataclass(frozen=True)
class State:
    """What the next pass builds on.

    Attributes:
        object_roi: The region last looked at, or None.
        map: Probabilities of the previous mask over the whole image; None before the first pass.
        answer: The pass that they come from; None for a mask that the annotator started from.
    """

    object_roi: ROI | None = None
    map: ProbabilityMap | None = None
    answer: Answer | None = None

    @staticmethod
    def given(mask: FloatMap | None) -> State:
        """The state of an annotator who starts from (H, W) float32 probabilities, or from nothing."""
        return State() if mask is None else State(map=Whole(mask))

    def at(self, row: int, column: int) -> float | None:
        """The previous mask's probability at a pixel; None before the first pass."""
        if self.answer is not None:
            return self.answer.at(row, column)
        return None if self.map is None else float(self.map.full()[row, column])


@dataclass(frozen=True)
class ClickPath:
    """One network with the settings that turn clicks into masks.

    Attributes:
        runner: Runs the network.
        zoom: How the input is cut.
        flip: Whether the mirror image is seen too and the logits are averaged.
        second_look: Whether what a first click found in a small part of the image is looked at again, closer, with
            that answer as the previous mask, before it is given. The published path does without.
        click_margin: See `ServingDefaults`. The published path does without.
    """

    runner: Runner
    zoom: ZoomSettings
    flip: bool
    second_look: bool = False
    click_margin: int = 0

    def roi(self, state: State, clicks: Sequence[PixelClick], height: int, width: int) -> ROI | None:
        """The region the next pass looks at; None for the whole image at its own size."""
        if len(clicks) <= self.zoom.skip_clicks:
            return None
        box = None if state.map is None else state.map.extent(self.zoom.mask_threshold)
        if box is not None:
            candidate = object_roi(box, clicks, height, width, self.zoom)
        elif self.zoom.skip_clicks >= 0:
            return None
        else:
            candidate = whole(height, width)
        if state.object_roi is not None and keeps(state.object_roi, candidate, clicks, self.zoom):
            return state.object_roi
        return candidate

    def advance(
        self,
        image: LoadedImage,
        state: State,
        clicks: Sequence[PixelClick],
        timings: Timings | None = None,
        region: ROI | None = None,
    ) -> Answer:
        """One pass of the network, or two for a first click with a second look.

        Args:
            image: The image.
            state: What came before.
            clicks: All clicks so far, in order.
            timings: Where stages are added.
            region: Look here, whatever state and clicks suggest.

        Returns:
            The last pass's answer; `answer.state()` is the next state.
        """
        timings = Timings() if timings is None else timings
        answer = self._look(image, state, clicks, timings, region)
        if self.second_look and state.map is None and region is None:
            found = answer.state()
            if self.roi(found, clicks, *answer.frame_size) != answer.object_roi:
                answer = self._look(image, found, clicks, timings)
        return answer

    def _look(
        self,
        image: LoadedImage,
        state: State,
        clicks: Sequence[PixelClick],
        timings: Timings,
        region: ROI | None = None,
    ) -> Answer:
        height, width = image.pixels.shape[:2]
        with timings.stage("roi"):
            zoomed = region or self.roi(state, clicks, height, width)
        roi = zoomed or whole(height, width)
        size = self.zoom.input_size(roi) if zoomed else (height, width)
        with timings.stage("crop"):
            previous = self._previous(state, roi, size)
            points = map_clicks(clicks, roi, size, self.click_margin)
            if self.flip:
                points = torch.cat((points, mirror_points(points, size[1])))

        def pixels() -> Tensor:
            return self._pixels(image, roi, size)

        logits = self.runner.logits(self._key(image, roi, size), pixels, previous, points, timings)
        if self.flip:
            logits = (logits[:1] + logits[1:].flip(3)) / 2
        return Answer(roi, zoomed, logits.sigmoid()[0, 0].numpy(), (height, width))

    def prefetch(self, image: LoadedImage, runner: SplitRunner) -> None:
        """Encodes what the first click on any object of the image will ask for."""
        roi = whole(*image.pixels.shape[:2])
        size = self.zoom.input_size(roi)
        runner.features(self._key(image, roi, size), lambda: self._pixels(image, roi, size), Timings())

    def _key(self, image: LoadedImage, roi: ROI, size: tuple[int, int]) -> Hashable:
        return (image.digest, roi, size, self.flip)

    def _pixels(self, image: LoadedImage, roi: ROI, size: tuple[int, int]) -> Tensor:
        cut = torch.from_numpy(crop(image.pixels, roi, size)).permute(2, 0, 1)[None] / 255  # (h, w, 3) -> (1, 3, h, w)
        return _with_mirror(cut) if self.flip else cut

    def _previous(self, state: State, roi: ROI, size: tuple[int, int]) -> Tensor:
        cut = np.zeros(size, np.float32) if state.map is None else crop_picked(state.map.pick, roi, size)
        previous = torch.from_numpy(cut)[None, None]
        return _with_mirror(previous) if self.flip else previous


def _with_mirror(x: Tensor) -> Tensor:
    return torch.cat((x, x.flip(3)))
