"""Which ROI of the image a step shows the network, and moving pixels and clicks between the image and its input.

The rules are those of RITM's zoom-in as SimpleClick and iCMFormer publish it; all of it is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icmformer.errors import ConfigError
from icmformer.types import BoolMask, RGBImage


class PixelClick(NamedTuple):
    """A click on a pixel."""

    row: int
    column: int
    positive: bool


class ROI(NamedTuple):
    """A region of interest, or any other rectangle of pixels: ends are inclusive."""

    row_min: int
    row_max: int
    column_min: int
    column_max: int

    @property
    def height(self) -> int:
        return self.row_max - self.row_min + 1

    @property
    def width(self) -> int:
        return self.column_max - self.column_min + 1

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.row_min, self.row_max + 1), slice(self.column_min, self.column_max + 1)


@dataclass(frozen=True)
class ZoomSettings:
    """How the ROI is chosen and resized to the network's input; its least side belongs to the weights.

    Attributes:
        skip_clicks: With up to so many clicks the whole image is seen at its own size; -1: it is always resized.
        target_size: (rows, columns) of the network's input, aspect not kept; or the long side, aspect kept.
        expansion_ratio: ROI side over the mask's side.
        least_overlap: A new ROI replaces the old one when their overlap falls below this.
        mask_threshold: Probability above which the previous mask counts for the ROI.
    """

    skip_clicks: int = -1
    target_size: tuple[int, int] | int = (448, 448)
    expansion_ratio: float = 1.4
    least_overlap: float = 0.5
    mask_threshold: float = 0.5

    def __post_init__(self) -> None:
        sides = (self.target_size,) if isinstance(self.target_size, int) else self.target_size
        if not all(isinstance(side, int) and side > 1 for side in sides) or len(sides) > 2:
            raise ConfigError(f"target_size must be one or two sides in pixels, got {self.target_size!r}")
        if self.skip_clicks != -1 and self.skip_clicks < 1:
            raise ConfigError(f"skip_clicks must be -1 or at least 1, got {self.skip_clicks}")

    def input_size(self, roi: ROI) -> tuple[int, int]:
        """(rows, columns) of the network's input for an ROI."""
        if not isinstance(self.target_size, int):
            return self.target_size
        scale = self.target_size / max(roi.height, roi.width)
        return round(roi.height * scale), round(roi.width * scale)


def whole(height: int, width: int) -> ROI:
    """The whole image as an ROI."""
    return ROI(0, height - 1, 0, width - 1)


def bounding_box(mask: BoolMask) -> ROI | None:
    """The tight box around a mask, or None for an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return ROI(int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))


def choose_roi(
    box: ROI | None,
    kept: ROI | None,
    clicks: Sequence[PixelClick],
    size: tuple[int, int],
    zoom: ZoomSettings,
    min_crop_size: int,
) -> ROI | None:
    """The ROI of a step.

    Args:
        box: The tight box around the previous mask; None where there is no mask.
        kept: The ROI of the step before, or None.
        clicks: All clicks so far.
        size: (H, W) of the image.
        zoom: Zoom settings.
        min_crop_size: Least side of an ROI before rounding.

    Returns:
        The ROI; None for the whole image at its own size.
    """
    if len(clicks) <= zoom.skip_clicks:
        return None
    if box is not None:
        candidate = object_roi(box, clicks, size, zoom.expansion_ratio, min_crop_size)
    elif zoom.skip_clicks >= 0:
        return None
    else:
        candidate = whole(*size)
    return kept if kept is not None and keeps(kept, candidate, clicks, zoom.least_overlap) else candidate


def expand(box: ROI, size: tuple[int, int], ratio: float, least: int) -> ROI:
    """Widens a box by a ratio, to a least side at least, and cuts it to an image of `size` (H, W)."""

    def ends(low: int, high: int, length: int) -> tuple[int, int]:
        centre = 0.5 * (low + high)
        side = max(ratio * (high - low + 1), least)
        return max(round(centre - side / 2), 0), min(round(centre + side / 2), length - 1)

    return ROI(*ends(box.row_min, box.row_max, size[0]), *ends(box.column_min, box.column_max, size[1]))


def object_roi(box: ROI, clicks: Sequence[PixelClick], size: tuple[int, int], ratio: float, least: int) -> ROI:
    """The box around the previous mask and the positive clicks, widened as by `expand`."""
    positive = [c for c in clicks if c.positive]
    rows, columns = [c.row for c in positive], [c.column for c in positive]
    box = ROI(
        min([box.row_min, *rows]),
        max([box.row_max, *rows]),
        min([box.column_min, *columns]),
        max([box.column_max, *columns]),
    )
    return expand(box, size, ratio, least)


def keeps(roi: ROI, candidate: ROI, clicks: Sequence[PixelClick], least_overlap: float) -> bool:
    """Whether the old ROI stays: all positive clicks lie well inside it, and the candidate overlaps it enough."""
    for click in clicks:
        if click.positive and not (
            roi.row_min <= click.row < roi.row_max and roi.column_min <= click.column < roi.column_max
        ):
            return False
    rows = _segment_iou((roi.row_min, roi.row_max), (candidate.row_min, candidate.row_max))
    columns = _segment_iou((roi.column_min, roi.column_max), (candidate.column_min, candidate.column_max))
    return rows * columns >= least_overlap


def _segment_iou(a: tuple[int, int], b: tuple[int, int]) -> float:
    shared = max(0, min(a[1], b[1]) - max(a[0], b[0]) + 1)
    return shared / max(1e-6, max(a[1], b[1]) - min(a[0], b[0]) + 1)


def crop(plane: RGBImage, roi: ROI, size: tuple[int, int]) -> NDArray[np.float32]:
    """Cuts an ROI out of an image and resizes it bilinearly (align_corners=True), reading only what matters.

    Args:
        plane: (H, W, 3) uint8, or (H, W) of any type.
        roi: The ROI.
        size: (rows, columns) of the result.

    Returns:
        float32 of that size, in the units of `plane`.
    """
    rows, columns = (taps(0, *axis[1:]) for axis in _axes(roi, size))
    part, channels = plane[roi.slices], plane.shape[2:]
    lines = part[np.concatenate((rows.low, rows.high))]
    lines = lines.reshape(len(lines), -1)  # the values of a pixel side by side
    left, right = (
        lines.take(_of_pixels(places, prod(channels)), axis=1).astype(np.float32)
        for places in (columns.low, columns.high)
    )
    return _blended(left, right, rows.weight, columns.weight.repeat(prod(channels))).reshape(*size, *channels)


def crop_picked(
    pick: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]], roi: ROI, size: tuple[int, int]
) -> NDArray[np.float32]:
    """`crop` of whatever gives the values at all crossings of some rows and columns, in an array of its own."""
    rows, columns = (taps(*axis) for axis in _axes(roi, size))
    both = np.concatenate((rows.low, rows.high))
    return _blended(pick(both, columns.low), pick(both, columns.high), rows.weight, columns.weight)


def _axes(roi: ROI, size: tuple[int, int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Where an ROI begins, how long it is and how many places it gets, down and across."""
    return (roi.row_min, roi.height, size[0]), (roi.column_min, roi.width, size[1])


def _of_pixels(columns: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """Where the values of some columns' pixels are in a line of all values."""
    return (columns[:, None] * channels + np.arange(channels)).ravel()


def _blended(
    left: NDArray[np.float32], right: NDArray[np.float32], down: NDArray[np.float32], across: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Blends values across, then the upper half of the rows with the lower one; works in place."""
    left *= 1 - across
    right *= across
    left += right
    upper, lower = left[: len(down)], left[len(down) :]
    upper *= (1 - down)[:, None]
    lower *= down[:, None]
    upper += lower
    return upper


class Taps(NamedTuple):
    """What `n` places read along one axis.

    Attributes:
        low: (n,) first source index.
        high: (n,) second source index.
        weight: (n,) float32, the second one's weight.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]

    def at(self, places: slice | NDArray[np.int64]) -> Taps:
        """The taps of some of the places."""
        return Taps(self.low[places], self.high[places], self.weight[places])


def taps(start: int, length: int, out: int) -> Taps:
    """How `out` places spread over `length` ones from `start` on read them (bilinear, align_corners=True).

    In torch's float32 arithmetic.
    """
    scale = np.float32(length - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
    position = np.arange(out, dtype=np.float32) * scale
    low = np.minimum(position.astype(np.int64), length - 1)
    high = np.minimum(low + 1, length - 1)
    return Taps(start + low, start + high, (position - low).astype(np.float32))


def map_clicks(clicks: Sequence[PixelClick], roi: ROI, size: tuple[int, int], margin: int = 0) -> Tensor:
    """Clicks as the network takes them: (1, 2N, 3), positive then negative, in pixels of its input, not rounded.

    Args:
        clicks: In pixels of the image.
        roi: The ROI that the input shows.
        size: (rows, columns) of the input.
        margin: Pixels that a click within the ROI keeps from the input's edges at least.
    """
    kinds: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for order, click in enumerate(clicks):
        row = size[0] * (click.row - roi.row_min) / roi.height
        column = size[1] * (click.column - roi.column_min) / roi.width
        if margin and 0 <= row < size[0] and 0 <= column < size[1]:
            row, column = _inside(row, size[0], margin), _inside(column, size[1], margin)
        kinds[click.positive].append((row, column, float(order)))
    count = max(1, len(kinds[True]), len(kinds[False]))
    points = torch.full((1, 2 * count, 3), -1.0)
    for offset, positive in ((0, True), (count, False)):
        if kinds[positive]:
            points[0, offset : offset + len(kinds[positive])] = torch.tensor(kinds[positive])
    return points


def _inside(place: float, length: int, margin: int) -> float:
    return min(max(place, margin), max(length - 1 - margin, margin))


def mirror_points(points: Tensor, width: int) -> Tensor:
    """The same clicks on the mirrored input; absent clicks stay absent."""
    absent = points[..., 2] < 0  # a click beyond the top left corner has negative coordinates and is there
    mirrored = points.clone()
    mirrored[..., 1] = torch.where(absent, points[..., 1], width - 1 - points[..., 1])
    return mirrored
