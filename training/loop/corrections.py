"""The correcting clicks of a batch, drawn by several threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.loop.clicks import add_click
from training.loop.samples import sample_rng
from training.simulated_annotator import EXTRA, MISSED, sampled_click


def what_is_wrong(mask: Tensor, target: Tensor) -> Tensor:
    """Where masks are wrong, on the device they lie on.

    Args:
        mask: (B, 1, H, W) bool.
        target: (B, 1, H, W): 1 object, 0 background, -1 ignored.

    Returns:
        (B, 1, H, W) uint8: `MISSED`, `EXTRA` or 0.
    """
    return ((target == 1) & ~mask).to(torch.uint8) * MISSED + ((target == 0) & mask).to(torch.uint8) * EXTRA


class Corrections:
    """Adds a round's clicks; each is a function of its sample's number, whatever the number of threads.

    Args:
        threads: How many share a batch.
        anywhere: Probability that a click lies anywhere in the larger error, not in its inner half.
    """

    def __init__(self, threads: int, anywhere: float = 0.0) -> None:
        self._threads, self._anywhere = threads, anywhere
        self._pool = ThreadPoolExecutor(threads, "corrections")

    def __call__(
        self, points: NDArray[np.float32], mask: Tensor, target: Tensor, numbers: Sequence[int], seed: int, stream: int
    ) -> None:
        """Adds a click where a mask is wrong.

        Args:
            points: (B, 2N, 3) clicks so far, changed in place.
            mask: (B, 1, H, W) bool, on any device.
            target: (B, 1, H, W): 1 object, 0 background, -1 ignored; on the same device.
            numbers: Of the samples.
            seed: Of the run.
            stream: The round, from 1.
        """
        wrong = what_is_wrong(mask, target)[:, 0].cpu().numpy()

        def correct(first: int) -> None:
            for i in range(first, len(numbers), self._threads):
                click = sampled_click(wrong[i], sample_rng(seed, numbers[i], stream), self._anywhere)
                if click:
                    add_click(points[i], click)

        list(self._pool.map(correct, range(self._threads)))
