"""Boxes as prompts in training: the first guess is the ellipse in a box that an annotator might draw."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from .clicks import ABSENT

NO_BOX = (-1, -1, -1, -1)
_JITTER = 0.1
"""Largest shift of a side, of the box's length across it."""


def box_prompt(
    target: NDArray[np.uint8], points: NDArray[np.float32], share: float, rng: Generator
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Turns a share of the samples into boxes with the clicks drawn, with one in the middle, or with none.

    Args:
        target: (H, W) uint8: 1 object.
        points: (2N, 3) first clicks of the sample.
        share: Of the samples.
        rng: Randomness of this sample.

    Returns:
        First and last row and first and last column of the box, `NO_BOX` for none; and the clicks beside it.
    """
    if not share or rng.random() >= share or not (target == 1).any():
        return np.array(NO_BOX, np.int16), points
    box = []
    for axis in (1, 0):
        hit = np.flatnonzero((target == 1).any(axis))
        first, last, end = int(hit[0]), int(hit[-1]), target.shape[1 - axis] - 1
        shift = np.rint(rng.uniform(-_JITTER, _JITTER, 2) * (last - first + 1)).astype(int)
        first = min(max(first + int(shift[0]), 0), end)
        box += [first, min(max(last + int(shift[1]), first), end)]
    kind = rng.integers(3)
    if kind:
        points = np.full_like(points, ABSENT)
    middle = (box[0] + box[1]) // 2, (box[2] + box[3]) // 2
    if kind == 2 and target[middle] == 1:
        points[0] = (*middle, 0)
    return np.array(box, np.int16), points


def ellipses(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The first guesses that boxes stand for, as serving makes them (`icmformer.inference.prompts.BoxStart`).

    Args:
        boxes: (B, 4) first and last row and first and last column, -1 for no box.
        size: Height and width of the masks.

    Returns:
        (B, 1, H, W) float32: 1 in the ellipse inscribed in the box, else 0; zeros where there is no box.
    """
    first, last = boxes[:, 0::2].float(), boxes[:, 1::2].float()  # (B, 2) each: of rows, of columns
    centre, half = (first + last) / 2, (last - first + 1) / 2
    away = []
    for axis, length in enumerate(size):
        places = torch.arange(length, device=boxes.device, dtype=torch.float32)
        away.append(((places - centre[:, axis : axis + 1]) / half[:, axis : axis + 1]) ** 2)
    inside = away[0][:, :, None] + away[1][:, None, :] <= 1
    return (inside & (boxes[:, 0] >= 0)[:, None, None]).float()[:, None]
