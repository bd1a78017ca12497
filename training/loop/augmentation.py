"""Augmentation: which part of an image the network sees, and how it looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from icmformer.errors import ConfigError

_BEYOND = (124, 116, 104)  # ImageNet's mean colour, beyond the image
OTHER = 2
"""Marks other objects than the one asked for, in the maps here."""
IGNORED = 255
"""Marks what does not count, and what lies beyond the image."""


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the augmentation.

    What says `own` or `published` counts by that recipe alone.

    Attributes:
        whole: (own) Probability of seeing the whole image, squeezed to the input, as a first click does when serving.
        zoom: (own) Probability of a crop around the object, as later clicks see it; the rest are random crops.
        zoom_expansion: (own) Least and most side of such a crop over the object's bounding box.
        resize: Least and most scale of a random crop; at 1 the image's long side fits the input, or as in `native`.
        native: (own) `resize` is relative to the image's own pixels instead, as it always is by the published recipe.
        turns: Turn the image by a random number of quarters. Published: half of the time, and half of the images are
            flipped in either way or both, instead of mirrored.
        tilt: Largest further turn, of what the network sees, in degrees. Published: of the whole image, three of four
            times, with a shift of up to 3% of its sides.
        brightness, contrast: Least and most relative change.
        rgb_shift: Largest shift of each channel, of 255.
        gray: (own) Probability of a gray image.
        least: (own) Smallest share of the input that the target covers; what shows less is drawn anew.
        min_area: (published) Fewest pixels of the input that the target covers.
        keep_background: (published) Probability that a crop which shows no object is kept, with an empty target.
    """

    whole: float = 0.4
    zoom: float = 0.35
    zoom_expansion: tuple[float, float] = (1.1, 2.2)
    resize: tuple[float, float] = (0.75, 1.40)
    native: bool = False
    turns: bool = False
    tilt: float = 0.0
    brightness: tuple[float, float] = (-0.25, 0.25)
    contrast: tuple[float, float] = (-0.15, 0.40)
    rgb_shift: int = 10
    gray: float = 0.05
    least: float = 0.0015
    min_area: int = 1000
    keep_background: float = 0.05

    def __post_init__(self) -> None:
        if self.min_area < 1 or not 0 <= self.keep_background <= 1:
            raise ConfigError(f"augment.min_area starts at 1 and keep_background lies in [0, 1], got {self}")
        if not all(0 <= share <= 1 for share in (self.whole, self.zoom, self.gray, self.least)):
            raise ConfigError(f"augment.whole, zoom, gray and least lie in [0, 1], got {self}")
        for name in ("zoom_expansion", "resize", "brightness", "contrast"):
            low, high = getattr(self, name)
            scale = name in ("zoom_expansion", "resize")
            if not low <= high < math.inf or low < -1 or (scale and low <= 0):
                over = "over 0" if scale else "from -1 on"
                raise ConfigError(f"augment.{name} is the least value and the most, {over}, got {[low, high]}")
        if not (0 <= self.tilt <= 180 and 0 <= self.rgb_shift <= 255):
            raise ConfigError(f"augment.tilt lies in [0, 180] and rgb_shift in [0, 255], got {self}")


def view(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], size: int, config: AugmentConfig, rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cuts what the network sees.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8: 1 object, 2 other objects, 0 background, 255 ignored.
        size: Side of the square result.
        config: Ranges.
        rng: Randomness of this sample.

    Returns:
        Image (size, size, 3) and mask (size, size), mirrored half of the time. What lies beyond the image is 255.
    """
    if config.turns:
        quarters = int(rng.integers(4))
        image, mask = (np.ascontiguousarray(np.rot90(x, quarters)) for x in (image, mask))
    tilt = rng.uniform(-config.tilt, config.tilt) if config.tilt else 0.0
    rows, columns = mask.shape
    kind = rng.random()
    if kind < config.whole or not (mask == 1).any():
        top, left, bottom, right = 0.0, 0.0, float(rows), float(columns)
    elif kind < config.whole + config.zoom:
        top, left, bottom, right = _zoom_window(mask, config, rng)
    else:
        top, left, bottom, right = _random_window(mask, size, config, rng)
    return _cut(image, mask, (top, left, bottom, right), size, mirror=bool(rng.random() < 0.5), tilt=tilt)


def _zoom_window(mask: NDArray[np.uint8], config: AugmentConfig, rng: Generator) -> tuple[float, float, float, float]:
    """A window around the object, off-centre and of unequal sides, cut to the image."""
    rows, columns = np.where((mask == 1).any(1))[0], np.where((mask == 1).any(0))[0]
    edges: list[tuple[float, float]] = []
    for low, high, length in ((rows[0], rows[-1] + 1, mask.shape[0]), (columns[0], columns[-1] + 1, mask.shape[1])):
        side = max((high - low) * rng.uniform(*config.zoom_expansion), 0.15 * length, 24)
        slack = max(side - (high - low), 0)
        start = low - slack * rng.uniform(0.2, 0.8)
        edges.append((max(start, 0.0), min(start + side, float(length))))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def _random_window(
    mask: NDArray[np.uint8], size: int, config: AugmentConfig, rng: Generator
) -> tuple[float, float, float, float]:
    """A window of the input's size at a random scale that holds some pixel of the object."""
    scale = rng.uniform(*config.resize)  # input pixels per image pixel
    if not config.native:
        scale *= size / max(mask.shape)
    side = size / scale
    rows, columns = np.nonzero(mask == 1)
    pick = rng.integers(len(rows))
    starts = []
    for position, length in ((rows[pick], mask.shape[0]), (columns[pick], mask.shape[1])):
        if side >= length:  # pad on both sides
            starts.append(rng.uniform(length - side, 0))
        else:
            starts.append(rng.uniform(max(0, position - side + 1), min(position, length - side)))
    return starts[0], starts[1], starts[0] + side, starts[1] + side


def _cut(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    window: tuple[float, float, float, float],
    size: int,
    mirror: bool,
    tilt: float,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    top, left, bottom, right = window
    sx, sy = size / (right - left), size / (bottom - top)
    matrix = np.array([[sx, 0, -left * sx + 0.5 * (sx - 1)], [0, sy, -top * sy + 0.5 * (sy - 1)]], np.float64)
    if mirror:
        matrix[0] = [-matrix[0, 0], 0, size - 1 - matrix[0, 2]]
    if tilt:
        turn = np.vstack([cv2.getRotationMatrix2D((0.5 * (size - 1), 0.5 * (size - 1)), tilt, 1.0), [0, 0, 1]])
        matrix = (turn @ np.vstack([matrix, [0, 0, 1]]))[:2]
    shrink = 2 * max(sx, sy)
    if shrink < 1:  # an image much larger than the input: averaged first, or its details would alias
        small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        scale = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
        coarse = np.column_stack([matrix[:, :2] * scale, matrix[:, 2] + matrix[:, :2] @ (0.5 * (scale - 1))])
        seen = cv2.warpAffine(small, coarse, (size, size), flags=cv2.INTER_LINEAR, borderValue=_BEYOND)
    else:
        seen = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=_BEYOND)
    share = cv2.warpAffine((mask == 1).astype(np.float32), matrix, (size, size), flags=cv2.INTER_LINEAR)
    coded = cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=IGNORED)
    cut = np.where((coded == IGNORED) | (coded == OTHER), coded, np.uint8(0))
    cut[(share > 0.5) & (coded != IGNORED)] = 1
    return np.asarray(seen, np.uint8), cut


def colour(image: NDArray[np.uint8], config: AugmentConfig, rng: Generator) -> NDArray[np.uint8]:
    """Changes brightness, contrast and channel balance of a (H, W, 3) uint8 image."""
    gain = 1 + rng.uniform(*config.contrast)
    shift = 255 * rng.uniform(*config.brightness) + rng.uniform(-config.rgb_shift, config.rgb_shift, 3)
    table = np.clip(np.arange(256)[:, None] * gain + shift, 0, 255).astype(np.uint8)  # (256, 3)
    if rng.random() < config.gray:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)
