"""Prompts other than clicks: a mask to correct, and a box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import PromptError
from icmformer.inference.session import State
from icmformer.inference.zoom import PixelClick
from icmformer.types import Box, FloatMap


def checked_mask(mask: NDArray[np.generic], height: int, width: int) -> FloatMap:
    """A mask to correct as (H, W) float32 probabilities.

    Raises:
        PromptError: Another shape than the image's, another type than bool or float, or values outside [0, 1].
    """
    if not isinstance(mask, np.ndarray) or mask.shape != (height, width):
        shape = getattr(mask, "shape", type(mask).__name__)
        raise PromptError(f"the previous mask has shape {shape}, the image {(height, width)} (rows, columns)")
    if mask.dtype == np.bool_:
        return mask.astype(np.float32)
    if not np.issubdtype(mask.dtype, np.floating):
        raise PromptError(f"the previous mask must be bool or float probabilities, got {mask.dtype}")
    values = mask.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise PromptError("the previous mask holds values outside [0, 1]")
    return values


def box_start(
    box: Box, mask: FloatMap | None, clicks: tuple[PixelClick, ...], height: int, width: int
) -> tuple[State, tuple[PixelClick, ...]]:
    """Where a box prompt starts from.

    The region is that of the box; the first guess is the ellipse inscribed in it, unless a mask is given; and where no
    positive click says better, the middle of the box counts as one.

    Returns:
        The state to start from, and the clicks with the box's own in front.
    """
    row_min, row_max, column_min, column_max = box.pixels(height, width)
    if mask is None:
        mask = np.zeros((height, width), np.float32)
        rows = (np.arange(row_min, row_max + 1) - (row_min + row_max) / 2) / ((row_max - row_min + 1) / 2)
        columns = (np.arange(column_min, column_max + 1) - (column_min + column_max) / 2) / (
            (column_max - column_min + 1) / 2
        )
        inside = rows[:, None] ** 2 + columns[None, :] ** 2 <= 1
        mask[row_min : row_max + 1, column_min : column_max + 1] = inside
    if not any(c.positive for c in clicks):
        clicks = (PixelClick((row_min + row_max) // 2, (column_min + column_max) // 2, True), *clicks)
    return State(given=mask), clicks
