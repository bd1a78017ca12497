"""The first clicks of a training sample, and the slots that clicks take in a network's input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from icmformer.errors import ConfigError
from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask

from ..simulated_annotator import any_pixel, deepest, distance_to_edge

ABSENT = -1.0
_KERNEL = np.ones((3, 3), np.uint8)
_LEAST_INNER = 10


@dataclass(frozen=True)
class PointsConfig:
    """How first clicks are drawn.

    Attributes:
        max_points: Most clicks of each kind.
        gamma: Ratio of the geometric distribution of their number.
        centre_first: Probability that the first positive click is the object's deepest point; `recipe: own` alone.
        erode: Probability that positive clicks keep away from the border.
        erode_rounds: Rounds of that erosion.
        negatives: Shares of negative clicks drawn from anywhere in the background, from other objects, and from the
            object's border.
        border: Least width of that border in pixels; a tenth of the object's size where that is more.
        edge: Probability that a positive click lies on the object's outermost pixels.
        anywhere: Probability that a correcting click lies anywhere in the larger error, not in its inner half.
        box: Share of the samples that begin with a box.
        unfinished: Share of the other samples that begin with a mask that is nearly right, and a click that corrects
            it.

    The last five are for `recipe: own` alone.
    """

    max_points: int = 24
    gamma: float = 0.8
    centre_first: float = 0.0
    erode: float = 0.9
    erode_rounds: int = 3
    negatives: tuple[float, float, float] = (0.1, 0.4, 0.5)
    border: int = 4
    edge: float = 0.0
    anywhere: float = 0.0
    box: float = 0.0
    unfinished: float = 0.0

    def __post_init__(self) -> None:
        if self.max_points < 1 or not 0 < self.gamma <= 1:
            raise ConfigError(f"points.max_points starts at 1 and gamma lies in (0, 1], got {self}")
        if min(self.negatives) < 0 or abs(sum(self.negatives) - 1) > 1e-6:
            raise ConfigError(f"points.negatives are shares that add up to 1, got {self.negatives}")
        shares = ("edge", "anywhere", "box", "unfinished", "centre_first", "erode")
        if not all(0 <= getattr(self, name) <= 1 for name in shares):
            raise ConfigError(f"points.{', '.join(shares)} lie in [0, 1], got {self}")


def first_clicks(
    target: NDArray[np.uint8], others: BoolMask, slots: int, config: PointsConfig, rng: Generator
) -> NDArray[np.float32]:
    """Draws the clicks a sample starts with.

    Args:
        target: (H, W) uint8: 1 object, 0 background, 255 ignored.
        others: (H, W) bool: other objects, for negative clicks.
        slots: Room for clicks of each kind in the result; at least `config.max_points`.
        config: Distribution.
        rng: Randomness of this sample.

    Returns:
        (2 * slots, 3) float32: positive then negative clicks as (row, column, order), absent ones -1. At least one
        positive click where there is an object; none else.
    """
    points = np.full((2 * slots, 3), ABSENT, np.float32)
    positive = target == 1
    order = 0
    if positive.any():
        inner = _eroded(positive, config.erode_rounds) if rng.random() < config.erode else positive
        for i in range(_count(config, rng, least=1)):
            if i == 0 and rng.random() < config.centre_first:
                points[i] = (*deepest(distance_to_edge(positive)), order)
            elif config.edge and rng.random() < config.edge:
                outermost = positive & ~cv2.erode(positive.view(np.uint8), _KERNEL).view(bool)
                points[i] = (*any_pixel(outermost if outermost.any() else positive, rng), order)
            else:
                points[i] = (*any_pixel(inner, rng), order)
            order += 1
    background = target == 0
    if background.any():
        border = _border(positive, background, config.border)
        for i in range(_count(config, rng, least=0)):
            kind = rng.choice(3, p=config.negatives)
            pool = (background, others & background, border)[kind]
            points[slots + i] = (*any_pixel(pool if pool.any() else background, rng), order)
            order += 1
    return points


def published_clicks(
    target: NDArray[np.uint8],
    objects: Sequence[BoolMask],
    occupied: BoolMask,
    others: bool,
    slots: int,
    config: PointsConfig,
    rng: Generator,
) -> NDArray[np.float32]:
    """Draws the clicks a sample starts with, as the published multi-point sampler does.

    One object gets all positive clicks. Of several, each gets one, and further ones fall on any of them. The border is
    exactly ceil(0.1 sqrt(area)) wide. A negative click that finds no pixel of its kind is left out.

    Args:
        target: (H, W) uint8: 1 object, 0 background, 255 ignored.
        objects: (H, W) bool masks of the objects that make up the target; none where it is empty.
        occupied: (H, W) bool: any object, also such as are too small for a target.
        others: Whether there are objects beside the target that are large enough for one; if not, the share of
            negative clicks on other objects falls anywhere in the background.
        slots: Room for clicks of each kind in the result; at least `config.max_points`.
        config: Distribution.
        rng: Randomness of this sample.

    Returns:
        As `first_clicks`.
    """
    positive = [_published_erosion(mask & (target == 1), config, rng) for mask in objects]
    pools = [mask for mask in positive if mask.any()]
    if len(pools) > 1:
        further = _count(config, rng, least=0)
        pools += [pools[rng.integers(len(pools))] for _ in range(min(further, config.max_points - len(pools)))]
    else:
        pools *= _count(config, rng, least=1)
    background = target == 0
    if objects:
        inner = target == 1
        kinds = (background, occupied & background if others else background, _border(inner, background, 1))
    else:
        kinds = (background & ~occupied,) * 3
    negative = [kinds[kind] for kind in rng.choice(3, _count(config, rng, least=0), p=config.negatives)]
    points = np.full((2 * slots, 3), ABSENT, np.float32)
    order = 0
    for first, masks in ((0, pools), (slots, [mask for mask in negative if mask.any()])):
        for slot, mask in enumerate(masks, first):
            points[slot] = (*any_pixel(mask, rng), order)
            order += 1
    return points


def add_click(points: NDArray[np.float32], click: PixelClick) -> None:
    """Writes a click into the first free slot of its kind, in place; without a free slot it is dropped."""
    row, column, positive = click
    slots = len(points) // 2
    kind = points[:slots] if positive else points[slots:]
    free = np.flatnonzero(kind[:, 2] < 0)
    if len(free):
        kind[free[0]] = (row, column, points[:, 2].max() + 1)


def used_slots(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """The clicks of a batch (B, 2N, 3) without the slots that no sample uses: (B, 2M, 3), M at least 1."""
    kinds = points.reshape(len(points), 2, -1, 3)  # positive, negative
    used = int(np.flatnonzero(np.any(kinds[..., 2] >= 0, axis=(0, 1))).max(initial=0)) + 1
    return np.ascontiguousarray(kinds[:, :, :used].reshape(len(points), 2 * used, 3))


def _count(config: PointsConfig, rng: Generator, least: int) -> int:
    numbers = np.arange(least, config.max_points + 1)
    weights = config.gamma ** (numbers - least)
    return int(rng.choice(numbers, p=weights / weights.sum()))


def _eroded(mask: BoolMask, rounds: int) -> BoolMask:
    inner = cv2.erode(mask.view(np.uint8), _KERNEL, iterations=rounds).view(bool)
    return inner if inner.any() else mask


def _published_erosion(mask: BoolMask, config: PointsConfig, rng: Generator) -> BoolMask:
    """The mask with probability `erode` eroded, where over ten pixels of it are left."""
    if rng.random() >= config.erode:
        return mask
    inner = _eroded(mask, config.erode_rounds)
    return inner if np.count_nonzero(inner) > _LEAST_INNER else mask


def _border(positive: BoolMask, background: BoolMask, least: int) -> BoolMask:
    """Background close to the object: dilated by 3 x 3 as often as a tenth of the object's size, rounded up."""
    reach = max(least, math.ceil(0.1 * math.sqrt(np.count_nonzero(positive))))
    return cv2.dilate(positive.view(np.uint8), _KERNEL, iterations=reach).view(bool) & background
