"""The package's vocabulary: clicks, boxes and results.

One coordinate convention holds everywhere inside the package: x runs right and y runs down, in pixels, as real
numbers; the top-left corner of the top-left pixel is (0, 0) and its middle is (0.5, 0.5). The pixel under (x, y) is row
floor(y), column floor(x). An adapter whose tool speaks otherwise (percent, say) converts at its own border.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import PromptError
from icmformer.runs import MaskRuns

BoolMask = NDArray[np.bool_]
FloatMap = NDArray[np.float32]
RGBImage = NDArray[np.uint8]


def _finite(value: Any) -> bool:
    """Whether something is a number that can be a coordinate."""
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


@dataclass(frozen=True)
class Click:
    """One click of the annotator.

    Attributes:
        x: Pixels from the left edge, continuous.
        y: Pixels from the top edge, continuous.
        positive: True on the object, False on what is not the object.

    Raises:
        PromptError: Coordinates that are not finite, or `positive` that is neither True nor False.
    """

    x: float
    y: float
    positive: bool = True

    def __post_init__(self) -> None:
        if not (_finite(self.x) and _finite(self.y)):
            raise PromptError(f"a click needs finite coordinates, got x={self.x!r:.80}, y={self.y!r:.80}")
        positive: Any = self.positive
        if not isinstance(positive, Integral | np.bool_) or positive not in (0, 1):
            raise PromptError(f"a click is positive or not, True or False, got {positive!r:.80}")
        object.__setattr__(self, "positive", bool(positive))

    def pixel(self, height: int, width: int) -> tuple[int, int]:
        """The pixel of an image under the click.

        A click exactly on the right or bottom edge counts for the last pixel, as annotation tools send such clicks.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.

        Returns:
            (row, column).

        Raises:
            PromptError: The click lies outside the image.
        """
        if not (0 <= self.x <= width and 0 <= self.y <= height):
            raise PromptError(
                f"click ({self.x:g}, {self.y:g}) lies outside the image of {width} x {height} pixels (width x height)"
            )
        return min(int(self.y), height - 1), min(int(self.x), width - 1)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box around the object, as two opposite corners in continuous pixels; any corner order will do.

    Attributes:
        x1: Left edge, in pixels; after construction less than x2.
        y1: Top edge; after construction less than y2.
        x2: Right edge.
        y2: Bottom edge.

    Raises:
        PromptError: Coordinates that are not finite, or a box without area.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        values = (self.x1, self.y1, self.x2, self.y2)
        if not all(map(_finite, values)):
            raise PromptError(f"a box needs finite coordinates, got {values!r:.200}")
        left, right = sorted((self.x1, self.x2))
        top, bottom = sorted((self.y1, self.y2))
        if left == right or top == bottom:
            raise PromptError(f"a box needs an area, got {values}")
        for name, value in zip(("x1", "y1", "x2", "y2"), (left, top, right, bottom), strict=True):
            object.__setattr__(self, name, value)

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The pixels of an image under the box, cut to the image.

        Args:
            height: Of the image, in pixels.
            width: Of the image, in pixels.

        Returns:
            (row min, row max, column min, column max), inclusive.

        Raises:
            PromptError: The box lies wholly outside the image.
        """
        if self.x1 >= width or self.y1 >= height or self.x2 <= 0 or self.y2 <= 0:
            raise PromptError(
                f"box ({self.x1:g}, {self.y1:g}, {self.x2:g}, {self.y2:g}) lies outside the image of {width} x {height}"
            )
        row_min, column_min = max(0, math.floor(self.y1)), max(0, math.floor(self.x1))
        row_max = min(height, math.ceil(self.y2)) - 1
        column_max = min(width, math.ceil(self.x2)) - 1
        return row_min, row_max, column_min, column_max


@dataclass(frozen=True)
class MaskResult:
    """The engine's reply to one prompt.

    Attributes:
        runs: The (H, W) mask as its runs, whose work is not that of all pixels.
        score: The network's own estimate of the mask's IoU with the object, in [0, 1]: the expected intersection over
            the expected union if every pixel's probability, sharpened, is taken at its word. 0 for an empty mask.
        roi: (row min, row max, column min, column max), inclusive: the ROI of the last step.
        timings: Stage name -> milliseconds.
        make_probability: Makes `probability`, (H, W) float32.
    """

    runs: MaskRuns = field(repr=False)
    score: float
    roi: tuple[int, int, int, int]
    timings: Mapping[str, float]
    make_probability: Callable[[], FloatMap] = field(repr=False)

    @cached_property
    def mask(self) -> BoolMask:
        """(H, W) bool, True on the object; made when first asked for."""
        return self.runs.to_mask()

    @cached_property
    def probability(self) -> FloatMap:
        """(H, W) float32 in [0, 1]; zero outside the ROI; made when first asked for.

        To keep correcting this mask in a later call, pass it as `previous_mask`.
        """
        return self.make_probability()

    def __eq__(self, other: Any) -> bool:
        """Equal when mask, probability, score and ROI are; timings do not count."""
        if not isinstance(other, MaskResult):
            return NotImplemented
        return (
            self.runs == other.runs
            and np.array_equal(self.probability, other.probability)
            and self.score == other.score
            and self.roi == other.roi
        )

    def __hash__(self) -> int:
        """The same for equal results, whose probabilities need not be made for it."""
        return hash((self.runs.size, self.score, self.roi))
