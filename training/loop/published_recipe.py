"""Samples by the published recipe: the crop comes first, then an object that it shows.

As RITM's code has it, which SimpleClick and iCMFormer use unchanged, with albumentations' definitions of the
augmentations. The other samples of `training.loop.samples` take an object first and crop around it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..data.objects import IGNORE, any_object, areas, without_stuff
from ..data.records import ImageRecord, Place
from ..data.sbd_voc import SBD, without_slivers
from .augmentation import AugmentConfig
from .clicks import published_clicks
from .config import TrainConfig

STOCHASTIC_DEPTH = 0.2
"""Rate at the last of Swin's blocks; plain ViTs have none."""
_COLOURS, _TILTED = 0.75, 0.75  # probabilities
_SHIFT = 0.03  # of a tilted image, as a share of its sides
_TRIES = 1000  # crops of an image before another one is drawn


@dataclass(frozen=True)
class Crop:
    """A square that is cut from an image after resizing, flips, quarter turns and a tilt, in this order.

    Attributes:
        size: Side in pixels.
        resized: Rows and columns of the resized image.
        flips: Whether rows and columns are reversed.
        quarters: Quarter turns, counter-clockwise.
        tilt: (2, 3) affine map of the turned image onto itself; None for none.
        start: Row and column at which the square begins; negative where it is larger than the image.
    """

    size: int
    resized: tuple[int, int]
    flips: tuple[bool, bool]
    quarters: int
    tilt: NDArray[np.float64] | None
    start: tuple[int, int]

    def __call__(self, pixels: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        """Cuts (H, W, C) uint8 with an interpolation of OpenCV: (size, size, C), zero beyond the image."""
        rows, columns = self.resized
        resized = cv2.resize(pixels, (columns, rows), interpolation=interpolation).reshape(rows, columns, -1)
        turned = np.rot90(resized[:: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1], self.quarters)
        if self.tilt is not None:
            side = turned.shape[1::-1]
            planes = [np.ascontiguousarray(turned[..., n]) for n in range(turned.shape[2])]  # warps four channels
            turned = np.stack([cv2.warpAffine(p, self.tilt, side, flags=interpolation) for p in planes], axis=2)
        cut = np.zeros((self.size, self.size, turned.shape[2]), np.uint8)
        (top, left), (above, beside) = (np.maximum(self.start, 0), np.maximum(np.negative(self.start), 0))
        seen = turned[top : top + self.size, left : left + self.size]
        cut[above : above + seen.shape[0], beside : beside + seen.shape[1]] = seen
        return cut


def draw_crop(rows: int, columns: int, size: int, config: AugmentConfig, rng: Generator) -> Crop:
    """Draws a crop, anywhere in the image, which is padded on both sides where it is smaller.

    Args:
        rows: Of the image.
        columns: Of the image.
        size: Side of the crop.
        config: `resize`, `turns` and `tilt` count.
        rng: Randomness of this sample.
    """
    scale = rng.uniform(*config.resize)
    resized = max(round(rows * scale), 1), max(round(columns * scale), 1)
    flips, quarters, tilt = (False, bool(rng.random() < 0.5)), 0, None
    if config.turns:  # half are flipped: vertically, horizontally or both ways; half are turned, by 0 to 3 quarters
        flips = ((True, False), (False, True), (True, True))[rng.integers(3)] if flips[1] else (False, False)
        quarters = int(rng.integers(4)) if rng.random() < 0.5 else 0
    height, width = resized if quarters % 2 == 0 else resized[::-1]
    if config.tilt and rng.random() < _TILTED:
        angle = rng.uniform(-config.tilt, config.tilt)
        tilt = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0), np.float64)
        tilt[:, 2] += rng.uniform(-_SHIFT, _SHIFT, 2) * np.array([width, height])
    top, left = (
        int((length - size) * rng.random()) if length >= size else -((size - length) // 2) for length in (height, width)
    )
    return Crop(size, resized, flips, quarters, tilt, (top, left))


def published_sample(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], record: ImageRecord, config: TrainConfig, rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]] | None:
    """Draws a sample of an image.

    A crop that shows nothing of any object is kept with probability `augment.keep_background` and else drawn anew.
    Objects under `augment.min_area` in the crop are no targets; where no other is left, the target is empty and all
    clicks are negative.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 label map, or layers (H, W, L) of them.
        record: What is known of the image.
        config: Of the run.
        rng: Randomness of this sample.

    Returns:
        Image (S, S, 3), target (S, S) and clicks (2N, 3), as in a `Sample`; None where no crop was kept.
    """
    augment = config.augment
    layers = without_stuff(labels, record, rng, config.data.stuff)
    layers = layers if layers.ndim == 3 else layers[..., None]
    if record.set == SBD:
        layers = without_slivers(layers[..., 0])[..., None]
    bare = not areas(layers)  # any crop is as good as the next
    for _ in range(_TRIES if not bare or augment.keep_background else 0):
        crop = draw_crop(layers.shape[0], layers.shape[1], config.size, augment, rng)
        cut = crop(layers, cv2.INTER_NEAREST)
        shown = areas(cut)
        if shown or bare or rng.random() < augment.keep_background:
            break
    else:
        return None
    left = [place for place, area in shown.items() if area >= augment.min_area]
    chosen = choose(left, record, config.data.merge, rng)
    masks = [cut[..., layer] == value for layer, value in chosen]
    target = np.zeros(cut.shape[:2], np.uint8)
    for mask in masks:
        target[mask] = 1
    target[(cut == IGNORE).any(2)] = IGNORE
    occupied = any_object(cut)
    others = len(left) > len(chosen)
    slots = config.points.max_points + config.max_rounds
    points = published_clicks(target, masks, occupied, others, slots, config.points, rng)
    return published_colour(crop(image, cv2.INTER_LINEAR), augment, rng), target, points


def choose(left: Collection[Place], record: ImageRecord, merge: float, rng: Generator) -> list[Place]:
    """Chooses the target among the objects that a crop shows: one, or two different ones with probability `merge`.

    Only whole objects count: those that are no part of another that is left, directly or through ones that are not.

    Returns:
        Layers and values; none where nothing is left.
    """
    parents = dict(record.parts)
    whole = []
    for place in left:
        above = parents.get(place)
        for _ in parents:  # a chain that is no longer than this, whatever a file says
            if above is None or above in left:
                break
            above = parents.get(above)
        if above is None or above not in left:
            whole.append(place)
    if not whole:
        return []
    count = 2 if len(whole) > 1 and rng.random() < merge else 1
    return [whole[number] for number in rng.choice(len(whole), count, replace=False)]


def published_colour(image: NDArray[np.uint8], config: AugmentConfig, rng: Generator) -> NDArray[np.uint8]:
    """Changes brightness and contrast of a (H, W, 3) uint8 image, then its channels, each with probability 0.75."""
    values = np.arange(256, dtype=np.float32)
    if rng.random() < _COLOURS:
        values = values * (1 + rng.uniform(*config.contrast)) + 255 * rng.uniform(*config.brightness)
    table = np.clip(values, 0, 255).astype(np.uint8)[:, None].repeat(3, axis=1)  # (256, 3)
    if rng.random() < _COLOURS:
        shift = rng.uniform(-config.rgb_shift, config.rgb_shift, 3)
        table = np.clip(table + shift, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)
