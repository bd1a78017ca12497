"""Prompts other than clicks: a mask to correct, and a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError, PromptError
from icmformer.inference.session import State
from icmformer.inference.zoom import ROI, PixelClick, ZoomSettings, expand
from icmformer.types import Box, FloatMap


@dataclass(frozen=True)
class BoxStart:
    """How a box becomes a start for the network, which has seen clicks and masks in training, not boxes.

    Attributes:
        guess: First guess of the mask within the box: `none`, the inscribed `ellipse`, or the whole `box`.
        centre: Count the middle of the box as a positive click, until the annotator makes one.
    """

    guess: str = "ellipse"
    centre: bool = True

    def __post_init__(self) -> None:
        if self.guess not in ("none", "ellipse", "box"):
            raise ConfigError(f"the first guess in a box is none, ellipse or box, not {self.guess!r}")

    def __call__(
        self, box: Box, mask: FloatMap | None, height: int, width: int
    ) -> tuple[State, tuple[PixelClick, ...]]:
        """Starts from a box.

        Args:
            box: The box.
            mask: (H, W) float32 of a mask to correct, which then is the guess; or None.
            height: Rows of the image.
            width: Columns of the image.

        Returns:
            The state to start from, whose region is that of the box, and the box's own clicks.
        """
        roi = ROI(*box.pixels(height, width))
        middle = PixelClick((roi.row_min + roi.row_max) // 2, (roi.column_min + roi.column_max) // 2, True)
        guess = self._guess(roi, height, width) if mask is None else mask
        return State(expand(roi, height, width, ZoomSettings()), guess), (middle,) if self.centre else ()

    def _guess(self, roi: ROI, height: int, width: int) -> FloatMap:
        guess = np.zeros((height, width), np.float32)
        if self.guess == "box":
            guess[roi.slices] = 1
        elif self.guess == "ellipse":
            rows = (np.arange(roi.height) - (roi.height - 1) / 2) / (roi.height / 2)
            columns = (np.arange(roi.width) - (roi.width - 1) / 2) / (roi.width / 2)
            guess[roi.slices] = rows[:, None] ** 2 + columns[None, :] ** 2 <= 1
        return guess


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
