"""The correcting clicks of a batch: on the CPU drawn by several threads, on a GPU all at once.

The two ways draw from the same rule, but not the same clicks. Threads take OpenCV's distances, which a 5 x 5 mask
approximates, as the published code does (`sampled_click`); a GPU computes exact ones, in whole numbers, so that it
draws the same clicks as any other device that goes this way. Either way a click is a function of the seed, its
sample's number and the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icmformer.inference.roi import PixelClick

from ..simulated_annotator import EXTRA, MISSED, sampled_click
from .clicks import add_click
from .samples import sample_rng

_BYTES_AT_ONCE = 2**28
"""For distances within rows, of which each wrong pixel takes eight bytes a column: of so many as fit at a time."""


def what_is_wrong(mask: Tensor, target: Tensor) -> Tensor:
    """Where masks are wrong, on the device they lie on.

    Args:
        mask: (B, 1, H, W) bool.
        target: (B, 1, H, W): 1 object, 0 background, -1 ignored.

    Returns:
        (B, H, W) uint8: `MISSED`, `EXTRA` or 0.
    """
    wrong = ((target == 1) & ~mask).to(torch.uint8) * MISSED + ((target == 0) & mask).to(torch.uint8) * EXTRA
    return wrong[:, 0]


class Corrections:
    """Adds a round's clicks, whatever the number of threads.

    Args:
        threads: How many share a batch on the CPU.
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
        wrong = what_is_wrong(mask, target)
        draws = (sample_rng(seed, number, stream) for number in numbers)
        if wrong.device.type == "cuda":
            clicks = clicks_at_once(wrong, np.stack([rng.random(2) for rng in draws]), self._anywhere)
            for own, click in zip(points, clicks, strict=True):
                if click:
                    add_click(own, click)
            return
        shown, rngs = wrong.numpy(), list(draws)

        def correct(first: int) -> None:
            for i in range(first, len(numbers), self._threads):
                click = sampled_click(shown[i], rngs[i], self._anywhere)
                if click:
                    add_click(points[i], click)

        list(self._pool.map(correct, range(self._threads)))


def clicks_at_once(wrong: Tensor, draws: NDArray[np.float64], anywhere: float) -> list[PixelClick | None]:
    """Draws the clicks of a batch on the device it lies on, from exact distances.

    Args:
        wrong: (B, H, W) uint8, as `what_is_wrong` has it.
        draws: (B, 2) random numbers in [0, 1): whether a click lies anywhere, and which of the pixels it takes.
        anywhere: Probability that all of the larger error counts, not only what is deep enough.

    Returns:
        A click for each sample; None where nothing is wrong.
    """
    count, device = len(wrong), wrong.device
    where = wrong.nonzero()  # (P, 3) sample, row and column; sample by sample, row by row
    sample, kind = where[:, 0], wrong[where.unbind(1)].long() - 1  # of kinds 0 is missed, 1 extra
    depth = _squared_depths(wrong, where, kind)
    deepest = torch.zeros(2 * count, dtype=depth.dtype, device=device)
    deepest.scatter_reduce_(0, 2 * sample + kind, depth, "amax")
    missed, extra = deepest.view(count, 2).unbind(1)
    chosen = (missed <= extra).long()  # a tie goes to the background
    largest = torch.maximum(missed, extra)
    drawn = torch.from_numpy(draws).to(device)
    least = torch.where(drawn[:, 0] < anywhere, 0, largest)  # over half of the largest depth, in squares
    pool = ((kind == chosen[sample]) & (4 * depth > least[sample])).nonzero()[:, 0]
    sizes = torch.bincount(sample[pool], minlength=count)
    picked = sizes.cumsum(0) - sizes + (drawn[:, 1] * sizes).long()
    places = where[pool[picked.clamp(max=max(len(pool) - 1, 0))]] if len(pool) else where.new_zeros((count, 3))
    told = torch.cat([places[:, 1:], (chosen == 0)[:, None], (sizes > 0)[:, None]], dim=1).tolist()
    return [PixelClick(row, column, bool(positive)) if any_ else None for row, column, positive, any_ in told]


def _squared_depths(wrong: Tensor, where: Tensor, kind: Tensor) -> Tensor:
    """Squared distances to the nearest pixel that is not wrong in the same way, which all beyond the map are.

    First within columns for all pixels, then within rows for those that count.

    Args:
        wrong: (B, H, W) uint8.
        where: (P, 3) sample, row and column of the wrong pixels.
        kind: (P,) of each 0 missed, 1 extra.

    Returns:
        (P,) int32.
    """
    height, width = wrong.shape[1:]
    rows = torch.arange(height, device=wrong.device, dtype=torch.int32)[:, None]
    columns = torch.arange(width, device=wrong.device, dtype=torch.int32)
    within = []
    for value in (MISSED, EXTRA):
        region = wrong == value
        above = rows - torch.where(region, -1, rows).cummax(dim=1).values
        below = torch.where(region, height, rows).flip(1).cummin(dim=1).values.flip(1) - rows
        within.append(torch.minimum(above, below) ** 2)
    squares = torch.stack(within)  # (2, B, H, W)
    depths, at_once = [], max(_BYTES_AT_ONCE // (8 * width), 1)
    for start in range(0, len(where), at_once):
        own = slice(start, start + at_once)
        column = where[own, 2].to(torch.int32)
        inside = ((column[:, None] - columns) ** 2).add_(squares[kind[own], where[own, 0], where[own, 1]]).amin(dim=1)
        depths.append(torch.minimum(inside, torch.minimum(column + 1, width - column) ** 2))
    return torch.cat(depths) if depths else where.new_zeros(0, dtype=torch.int32)
