"""What prompts must be, and how those other than clicks become a start: a mask to correct, and a box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError, PromptError
from icmformer.inference.predictor import Prediction
from icmformer.inference.roi import ROI, PixelClick, ZoomSettings
from icmformer.types import Box, Click, FloatMap


@dataclass(frozen=True)
class BoxStart:
    """How a box becomes a prediction to start from: in training the network has seen clicks and masks, not boxes.

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
    ) -> tuple[Prediction, tuple[PixelClick, ...]]:
        """Starts from a box.

        Args:
            box: The box.
            mask: (H, W) float32 of a mask to correct, of which the part in the box is the guess; or None.
            height: Rows of the image.
            width: Columns of the image.

        Returns:
            The prediction to start from, and the box's own clicks.
        """
        roi = ROI(*box.pixels(height, width))
        middle = PixelClick((roi.row_min + roi.row_max) // 2, (roi.column_min + roi.column_max) // 2, True)
        guess = np.zeros((height, width), np.float32)
        if mask is not None:
            guess[roi.slices] = mask[roi.slices]
        if not guess.any():
            guess[roi.slices] = self._guess(roi)
        return Prediction.given(guess), (middle,) if self.centre else ()

    def _guess(self, roi: ROI) -> FloatMap:
        if self.guess != "ellipse":
            return np.full((roi.height, roi.width), self.guess == "box", np.float32)
        rows = (np.arange(roi.height) - (roi.height - 1) / 2) / (roi.height / 2)
        columns = (np.arange(roi.width) - (roi.width - 1) / 2) / (roi.width / 2)
        return (rows[:, None] ** 2 + columns[None, :] ** 2 <= 1).astype(np.float32)


def as_clicks(clicks: Iterable[Click]) -> tuple[Click, ...]:
    """Clicks as a tuple.

    Raises:
        PromptError: Anything but clicks.
    """
    try:
        made = tuple(clicks)
    except TypeError as error:
        raise PromptError(f"clicks must be a list of Click(x, y, positive), got {type(clicks).__name__}") from error
    for click in made:
        if not isinstance(click, Click):
            raise PromptError(f"each click must be a Click(x, y, positive), got {click!r:.80}")
    return made


def as_box(box: Box | Sequence[float] | None) -> Box | None:
    """A box, or its four coordinates, as a box.

    Raises:
        PromptError: Not four numbers.
    """
    if box is None or isinstance(box, Box):
        return box
    try:
        x1, y1, x2, y2 = map(float, box)
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"a box is four numbers (x1, y1, x2, y2), got {box!r:.200}") from error
    return Box(x1, y1, x2, y2)


def checked_mask(mask: NDArray[np.generic], height: int, width: int) -> FloatMap | None:
    """A mask to correct as (H, W) float32 probabilities; None for one with nothing over 0.5, which corrects nothing.

    Raises:
        PromptError: Another shape than the image's, another type than bool or float, or values outside [0, 1].
    """
    if not isinstance(mask, np.ndarray) or mask.shape != (height, width):
        shape = getattr(mask, "shape", type(mask).__name__)
        raise PromptError(f"the previous mask has shape {shape}, the image {(height, width)} (rows, columns)")
    if mask.dtype == np.bool_:
        return mask.astype(np.float32) if mask.any() else None
    if not np.issubdtype(mask.dtype, np.floating):
        raise PromptError(f"the previous mask must be bool or float probabilities, got {mask.dtype}")
    values = mask.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise PromptError("the previous mask holds values outside [0, 1]")
    return values if (values > ZoomSettings().mask_threshold).any() else None
