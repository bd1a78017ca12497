"""How fast samples and correcting clicks come, without a network: `--no-network` of `training.train`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from icmformer.errors import ConfigError, UnreadableImageError

from ..data.decoded import Decoded
from .config import TrainConfig, stages
from .corrections import Corrections
from .samples import Batch, SampleSet, stack
from .trainer import batches, worker_processes
from .unreadable import too_many

CORRECTED = 64
"""Samples in the batch whose correcting clicks are timed."""
_REPEATS = 10


@dataclass(frozen=True)
class FeedFigures:
    """What a machine prepares.

    Attributes:
        images: Images there are.
        kept: Bytes of those that were kept decoded.
        decode_seconds: That it took to decode them all once.
        workers: Processes that prepared samples; 0 for the one that trains.
        size: Side of the samples in pixels.
        samples_per_second: Prepared by all workers together, images decoded.
        threads: That draw correcting clicks.
        click_ms: Median time of the correcting clicks for a batch of `CORRECTED` samples.
    """

    images: int
    kept: int
    decode_seconds: float
    workers: int
    size: int
    samples_per_second: float
    threads: int
    click_ms: float

    def __str__(self) -> str:
        own = self.samples_per_second / max(self.workers, 1)
        return "\n".join(
            [
                f"decoded   {self.images:,} images once in {self.decode_seconds:.1f} s; {self.kept / 1e9:.2f} GB kept",
                f"prepared  {self.samples_per_second:,.0f} samples a second at {self.size} x {self.size}, "
                f"{own:,.0f} for each of {max(self.workers, 1)} processes",
                f"clicks    a batch of {CORRECTED} corrected in {self.click_ms:.1f} ms by {self.threads} threads",
            ]
        )


class _Loads(Dataset[UnreadableImageError | None]):
    """Decodes image by image, for what stays in memory."""

    def __init__(self, images: Decoded) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images.records)

    def __getitem__(self, index: int) -> UnreadableImageError | None:
        """None, or what is wrong with an image: as a value, so that it comes whole out of a worker process."""
        if index >= len(self):
            raise IndexError(index)
        try:
            self._images.load(index)
        except UnreadableImageError as error:
            return error
        return None


def measure_feed(config: TrainConfig, images: Decoded, workers: int, seconds: float) -> FeedFigures:
    """Decodes every image once, then prepares the samples of the run's last stage for some seconds.

    Args:
        config: Of the run.
        images: To draw from.
        workers: Processes that prepare.
        seconds: How long to prepare.

    Raises:
        ConfigError: Images that cannot be used.
        TrainingError: More of them are unreadable than may be.
    """
    stage = stages(config)[-1]
    if stage.until - stage.start < stage.config.batch:
        raise ConfigError("the run's last stage has fewer samples than one batch: there is nothing to measure")
    loads = DataLoader(_Loads(images), batch_size=16, collate_fn=list, **worker_processes(workers))
    started = time.monotonic()
    unreadable: list[UnreadableImageError] = []
    for errors in tqdm(loads, desc="decoding", unit="batch", leave=False, mininterval=1):
        unreadable += filter(None, errors)
    for error in unreadable:
        print(f"cannot be read, passed over: {error}", file=sys.stderr)
    share = config.data.unreadable
    if unreadable and (failure := too_many(len(unreadable), len(images.records), share, unreadable[0])):
        raise failure
    decode_seconds = time.monotonic() - started
    with closing(batches(SampleSet(images, stage.config), stage, stage.start, workers)) as source:
        next(source)  # workers have started
        prepared, started, ended = 0, time.monotonic(), time.monotonic() + seconds
        for batch in source:
            prepared += len(batch.numbers)
            if time.monotonic() > ended:
                break
        rate = prepared / (time.monotonic() - started)
    samples = SampleSet(images, stage.config)
    batch = stack([samples.sample(number) for number in range(CORRECTED)])
    threads = torch.get_num_threads()
    click_ms = statistics.median(islice(_click_times(batch, threads), 2, 2 + _REPEATS))
    return FeedFigures(
        len(images.records), images.kept, decode_seconds, workers, stage.config.size, rate, threads, click_ms
    )


def _click_times(batch: Batch, threads: int) -> Iterator[float]:
    """Milliseconds for a round of clicks on masks as a network in training makes them: roughly right, with holes."""
    corrections = Corrections(threads)
    mask = _guesses(batch.target)
    while True:
        points = batch.points.numpy().copy()
        started = time.perf_counter()
        corrections(points, mask, batch.target, batch.numbers, 0, 1)
        yield 1000 * (time.perf_counter() - started)


def _guesses(target: Tensor) -> Tensor:
    """(B, 1, H, W) bool: the targets, blurred and with smooth noise that moves a tenth or so of their pixels."""
    rng = np.random.default_rng(0)
    masks = []
    for truth in target[:, 0].numpy() == 1:
        noise = cv2.resize(rng.normal(0, 0.5, (20, 20)).astype(np.float32), truth.shape[::-1])
        masks.append(cv2.GaussianBlur(truth.astype(np.float32) + noise, (0, 0), 5) > 0.5)
    return torch.from_numpy(np.stack(masks))[:, None]
