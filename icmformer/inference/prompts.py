"""What prompts must be, and how those other than clicks become a start: a mask to correct, and a box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError, PromptError
from icmformer.inference.predictor import Prediction
from icmformer.inference.roi import ROI, PixelClick, ZoomSettings
from icmformer.runs import MaskRuns, Places
from icmformer.types import Box, Click, FloatMap

_NOTHING = np.zeros((1, 1), np.float32)


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
        own = (middle,) if self.centre else ()
        if mask is not None and mask[roi.slices].any():
            part = np.zeros((height, width), np.float32)
            part[roi.slices] = mask[roi.slices]
            return Prediction.given(part), own
        return Prediction(_NOTHING, (height, width), guess=BoxMap(self.guess, roi, (height, width))), own


@dataclass(frozen=True)
class BoxMap:
    """A probability map of ones in a box, or in the ellipse in it, and zeros elsewhere.

    Attributes:
        guess: As `BoxStart` has it.
        roi: The box.
        size: (H, W) of the image.
    """

    guess: str
    roi: ROI
    size: tuple[int, int]

    def pick(self, rows: Places, columns: Places) -> FloatMap:
        """See `ProbabilityMap`."""
        down = (rows - self.roi.row_min - (self.roi.height - 1) / 2) / (self.roi.height / 2)
        across = (columns - self.roi.column_min - (self.roi.width - 1) / 2) / (self.roi.width / 2)
        if self.guess == "ellipse":
            inside = down[:, None] ** 2 + across[None, :] ** 2 <= 1
        else:
            inside = (np.abs(down) < 1)[:, None] & (np.abs(across) < 1) & (self.guess == "box")
        return np.asarray(inside, np.float32)

    def extent(self, threshold: float) -> ROI | None:
        """See `ProbabilityMap`."""
        box = self.over(threshold).box
        return None if box is None else ROI(*box)

    def over(self, threshold: float) -> MaskRuns:
        """See `ProbabilityMap`."""
        roi = self.roi
        rows, columns = np.arange(roi.row_min, roi.row_max + 1), np.arange(roi.column_min, roi.column_max + 1)
        return MaskRuns.of(self.pick(rows, columns) > threshold, self.size, roi.row_min, roi.column_min)

    def full(self) -> FloatMap:
        """See `ProbabilityMap`."""
        return self.pick(*(np.arange(side) for side in self.size))


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
