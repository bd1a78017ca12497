"""Training samples: image, target and first clicks, each a pure function of the seed and the sample's number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from icmformer.errors import ConfigError, IcmformerError, TrainingError, UnreadableImageError

from ..data.objects import any_object, pick_object, without_stuff
from ..data.records import ImageSource
from .augmentation import IGNORED, OTHER, colour, view
from .boxes import NO_BOX, box_prompt
from .clicks import first_clicks
from .config import TrainConfig
from .copy_paste import paste
from .published_recipe import published_sample
from .regions import colour_region
from .unfinished import unfinished_prompt

_ATTEMPTS = 500  # images drawn for one sample before the data is called unusable
_UNREADABLE_IN_A_ROW = 100  # so many alone are enough: the disk is away, say, and each takes its time to fail


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        number: The sample's number in the run.
        image: (S, S, 3) uint8 RGB.
        target: (S, S) uint8: 1 object, 0 background, 255 ignored; some are without an object (`recipe: published`).
        points: (2N, 3) float32, as the networks take them.
        box: (4,) int16: first and last row and column of a box to begin with, or -1.
        passed_over: Images that were drawn for it first and cannot be read.
        previous: (S, S) uint8 probabilities, of 255, of a mask to begin with; None for none.
    """

    number: int
    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    points: NDArray[np.float32]
    box: NDArray[np.int16]
    passed_over: tuple[UnreadableImageError, ...] = ()
    previous: NDArray[np.uint8] | None = None


def sample_rng(seed: int, number: int, stream: int = 0) -> Generator:
    """The randomness of sample `number`; streams 1, 2, ... are those of its iterative rounds."""
    return np.random.default_rng((seed, number, stream))


class SampleSet(Dataset[Sample | IcmformerError]):
    """Sample `n` of a run: images drawn by weight, with replacement.

    A sample is a function of the seed, its number and which images cannot be read: in their place, others are drawn.
    """

    def __init__(self, images: ImageSource, config: TrainConfig) -> None:
        self.images = images
        self.config = config
        unknown = set(config.data.set_weights) - {r.set for r in images.records}
        if unknown:
            raise ConfigError(f"data.set_weights names sets that no image is of: {', '.join(sorted(unknown))}")
        by_objects = config.data.balance == "objects"
        weights = np.array(
            [
                config.data.set_weights.get(record.set, 1.0) * (len(record.labels) if by_objects else 1)
                for record in images.records
            ]
        )
        self._edges = np.cumsum(weights / weights.sum())

    def __getitem__(self, number: int) -> Sample | IcmformerError:
        """Sample `number`; an error is a value, so that it comes whole out of a worker process."""
        try:
            return self.sample(number)
        except IcmformerError as error:
            return error

    def sample(self, number: int) -> Sample:
        """Sample `number`.

        Raises:
            ConfigError: Images or masks that cannot be used.
            TrainingError: Too many images in a row that cannot be read.
        """
        config = self.config
        rng = sample_rng(config.seed, number)
        slots = config.points.max_points + config.max_rounds
        if config.points.unfinished or config.data.regions:
            slots += 1  # for the click that corrects a mask which is nearly right
        passed_over: dict[str, UnreadableImageError] = {}
        failed = 0
        for _attempt in range(_ATTEMPTS):
            index = self._any_image(rng)
            try:
                image, labels = self.images.load(index)
            except UnreadableImageError as error:
                passed_over[error.image] = error
                failed += 1
                if failed == _UNREADABLE_IN_A_ROW and failed == _attempt + 1:
                    break
                continue
            record = self.images.records[index]
            if config.recipe == "published":
                drawn = published_sample(image, labels, record, config, rng)
                if drawn is None:
                    continue
                return Sample(number, *drawn, np.array(NO_BOX, np.int16), tuple(passed_over.values()))
            labels = without_stuff(labels, record, rng, config.data.stuff)
            target = pick_object(labels, record, rng, config.data.merge, config.data.least)
            if target is None:
                continue
            target[(target == 0) & any_object(labels)] = OTHER
            seen, cut = view(image, target, config.size, config.augment, rng)
            if (cut == 1).sum() < max(config.augment.least * cut.size, 1):
                continue
            if config.data.paste and rng.random() < config.data.paste:
                try:
                    seen, cut = self._with_another(seen, cut, rng)
                except UnreadableImageError as error:
                    passed_over[error.image] = error
            others = cut == OTHER
            cut[others] = 0
            asked = config.points
            if config.data.regions and rng.random() < config.data.regions:
                region = colour_region(seen, cut != IGNORED, config.augment.least, rng)
                if region is not None:  # which no first click could name: it begins with a mask
                    cut, others = np.where(cut == IGNORED, cut, region.astype(np.uint8)), np.zeros_like(others)
                    asked = replace(asked, box=0.0, unfinished=1.0)
            points = first_clicks(cut, others, slots, asked, rng)
            pixels = colour(seen, config.augment, rng)
            box, points = box_prompt(cut, points, asked.box, rng)
            previous = None
            if box[0] < 0:
                previous, points = unfinished_prompt(cut, others, points, asked, config.serving.threshold, rng)
            return Sample(number, pixels, cut, points, box, tuple(passed_over.values()), previous)
        if passed_over:
            last = next(reversed(passed_over.values()))
            raise TrainingError(
                f"of the {_attempt + 1} images drawn for sample {number}, {failed} cannot be read and the others show "
                f"no usable object; for one: {last}"
            )
        raise ConfigError(f"no usable object in {_ATTEMPTS} images drawn for sample {number}: check the data's masks")

    def _any_image(self, rng: Generator) -> int:
        """An image's number, drawn by weight."""
        return min(int(np.searchsorted(self._edges, rng.random(), side="right")), len(self.images.records) - 1)

    def _with_another(
        self, seen: NDArray[np.uint8], cut: NDArray[np.uint8], rng: Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """What a sample shows, with an object of another image pasted, if that one has any."""
        index = self._any_image(rng)
        image, labels = self.images.load(index)
        record = self.images.records[index]
        truth = pick_object(without_stuff(labels, record, rng, 0.0), record, rng, 0.0, self.config.data.least)
        if truth is None:
            return seen, cut
        return paste(seen, cut, colour(image, self.config.augment, rng), truth == 1, self.config.augment.least, rng)


class RunSampler(Sampler[int]):
    """Numbers of the samples one process takes: batches go round by rank, from sample `start` on."""

    def __init__(self, start: int, stop: int, batch: int, rank: int, world: int) -> None:
        self.start, self.stop, self.batch, self.rank, self.world = start, stop, batch, rank, world

    def __iter__(self) -> Iterator[int]:
        share = self.batch // self.world
        for first in range(self.start, self.stop - self.batch + 1, self.batch):
            yield from range(first + self.rank * share, first + (self.rank + 1) * share)


@dataclass(frozen=True)
class Batch:
    """Samples side by side, in bytes until a device takes them.

    Attributes:
        numbers: Of the samples.
        image: (B, 3, S, S) uint8; channels last in memory.
        target: (B, 1, S, S) int8: 1, 0, -1 ignored.
        points: (B, 2N, 3) float32.
        boxes: (B, 4) int16, as `Sample` has them; None where no sample has one.
        passed_over: Images that were drawn for them first and cannot be read.
        previous: (B, 1, S, S) uint8 probabilities, of 255, of masks to begin with, 0 for none; None where no sample has
            one.
    """

    numbers: tuple[int, ...]
    image: Tensor
    target: Tensor
    points: Tensor
    boxes: Tensor | None = None
    passed_over: tuple[UnreadableImageError, ...] = ()
    previous: Tensor | None = None

    def split(self, parts: int) -> list[Batch]:
        """The batch in equal parts."""
        size = len(self.numbers) // parts
        cuts = [slice(i, i + size) for i in range(0, size * parts, size)]
        return [
            Batch(
                self.numbers[c],
                self.image[c],
                self.target[c],
                self.points[c],
                None if self.boxes is None else self.boxes[c],
                previous=None if self.previous is None else self.previous[c],
            )
            for c in cuts
        ]

    def pin_memory(self) -> Batch:
        """The same in memory from which a GPU copies while the CPU goes on."""
        previous = None if self.previous is None else self.previous.pin_memory()
        return replace(self, image=self.image.pin_memory(), target=self.target.pin_memory(), previous=previous)

    def pixels(self, device: torch.device, channels_last: bool = False) -> Tensor:
        """The images on a device: (B, 3, S, S) float32 in [0, 1]."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return self.image.to(device, non_blocking=True).float().div_(255).contiguous(memory_format=layout)


def collate(samples: list[Sample | IcmformerError]) -> Batch | IcmformerError:
    """Stacks samples; the first error, if there is one."""
    for sample in samples:
        if isinstance(sample, IcmformerError):
            return sample
    return stack([s for s in samples if isinstance(s, Sample)])


def stack(samples: list[Sample]) -> Batch:
    """Stacks samples."""
    images = torch.from_numpy(np.stack([s.image for s in samples]))
    targets = torch.from_numpy(np.stack([s.target for s in samples]))
    boxes = torch.from_numpy(np.stack([s.box for s in samples]))
    return Batch(
        tuple(s.number for s in samples),
        images.permute(0, 3, 1, 2),  # (B, S, S, 3) -> (B, 3, S, S)
        targets.view(torch.int8)[:, None],  # 255 is -1
        torch.from_numpy(np.stack([s.points for s in samples])),
        boxes if (boxes >= 0).any() else None,
        tuple(error for s in samples for error in s.passed_over),
        _previous(samples),
    )


def _previous(samples: list[Sample]) -> Tensor | None:
    """The masks that samples begin with, as `Batch` has them."""
    if all(s.previous is None for s in samples):
        return None
    none = np.zeros_like(samples[0].target)
    return torch.from_numpy(np.stack([none if s.previous is None else s.previous for s in samples]))[:, None]
