"""Unfinished masks as prompts in training: the mask that later clicks find, nearly right, and a click that corrects it.

The rounds of a pass add a click or two to a first mask. Annotators add up to twenty, and what they find before the last
ones is the object but for a part that is missing, a neighbour that is marked as well, holes that are filled, or an
outline that wavers. Such masks are made from the target, so that a network learns to keep what is right and to change
what the click points at.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from icmformer.types import BoolMask, FloatMap

from ..simulated_annotator import EXTRA, MISSED, any_pixel, sampled_click
from .clicks import PointsConfig, add_click, first_clicks

_OPENED, _CLOSED, _LEAKED = 0.35, 0.25, 0.25
"""Shares of the masks that lose thin parts, have holes and bays filled, and take another object in."""
_PIECES = (0.35, 0.35, 0.2, 0.1)
"""Shares of the masks of which no piece, one, two and three along the outline are wrong."""
_GAMMA, _ERODE = 0.8, 0.5
"""In place of the config's: as many clicks as have made such a mask, some of them close to the outline."""


def unfinished_prompt(
    target: NDArray[np.uint8],
    others: BoolMask,
    points: NDArray[np.float32],
    config: PointsConfig,
    threshold: float,
    rng: Generator,
) -> tuple[NDArray[np.uint8] | None, NDArray[np.float32]]:
    """Gives a share of the samples a mask to begin with, more clicks, and a last one where the mask is wrong.

    Args:
        target: (H, W) uint8: 1 object, 0 background, 255 ignored.
        others: (H, W) bool: other objects.
        points: (2N, 3) first clicks of the sample.
        config: Says what share, and how clicks are drawn.
        threshold: Probability above which a pixel is in the mask.
        rng: Randomness of this sample.

    Returns:
        (H, W) uint8 probabilities, of 255, None for a sample that begins without a mask; and the clicks beside it.
    """
    if not config.unfinished or rng.random() >= config.unfinished or not (target == 1).any():
        return None, points
    previous = unfinished_mask(target == 1, others, rng)
    marked = previous > 255 * threshold
    wrong = ((target == 1) & ~marked).astype(np.uint8) * MISSED + ((target == 0) & marked).astype(np.uint8) * EXTRA
    many = replace(config, gamma=_GAMMA, erode=_ERODE)
    points = first_clicks(target, others, len(points) // 2, many, rng)
    click = sampled_click(wrong, rng, config.anywhere)
    if click:
        add_click(points, click)
    return previous, points


def unfinished_mask(truth: BoolMask, others: BoolMask, rng: Generator) -> NDArray[np.uint8]:
    """An object's mask as a network might have left it.

    Args:
        truth: (H, W) bool, not empty.
        others: (H, W) bool: other objects.
        rng: Randomness.

    Returns:
        (H, W) uint8 probabilities, of 255.
    """
    side = float(np.sqrt(np.count_nonzero(truth)))  # of a square as large as the object
    mask = truth.view(np.uint8)
    if rng.random() < _OPENED:
        opened = _changed(mask, cv2.MORPH_OPEN, rng.uniform(1, max(0.08 * side, 2)))
        mask = opened if opened.any() else mask
    if rng.random() < _CLOSED:
        mask = _changed(mask, cv2.MORPH_CLOSE, rng.uniform(1, max(0.15 * side, 2)))
    if rng.random() < _LEAKED:
        mask = mask | _neighbour(mask, others, side, rng)
    marked = mask > 0
    depth = _depth(marked) - _depth(~marked)  # pixels inside the outline, negative outside
    for _ in range(int(rng.choice(len(_PIECES), p=_PIECES))):
        depth = _with_a_wrong_piece(depth, side, rng)
    length = rng.uniform(4, max(0.6 * side, 8))
    amplitude = min(rng.uniform(0.01, 0.1) * side, 0.3 * length, 12.0)
    depth = depth + amplitude * _smooth_noise(truth.shape, length, rng)
    softness = rng.uniform(0.4, 1 + min(0.04 * side, 4))  # pixels in which a probability rises from one half to 0.73
    probabilities = 1 / (1 + np.exp(np.clip(-depth / softness, -30, 30)))
    return np.asarray(np.rint(255 * probabilities), np.uint8)


def _changed(mask: NDArray[np.uint8], operation: int, radius: float) -> NDArray[np.uint8]:
    """A mask after an operation of OpenCV's morphology."""
    return np.asarray(cv2.morphologyEx(mask, operation, _disk(radius)), np.uint8)


def _depth(region: BoolMask) -> FloatMap:
    """(H, W) float32: each pixel's distance to the nearest one outside a region, which ends at no edge of the map."""
    if region.all():
        return np.full(region.shape, max(region.shape), np.float32)
    return np.asarray(cv2.distanceTransform(region.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5), np.float32)


def _disk(radius: float) -> NDArray[np.uint8]:
    side = 2 * round(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _neighbour(mask: NDArray[np.uint8], others: BoolMask, side: float, rng: Generator) -> NDArray[np.uint8]:
    """Other objects within a piece of the surroundings of a mask; nothing where there are none."""
    around = cv2.dilate(mask, _disk(max(0.1 * side, 2))).view(bool) & others
    if not around.any():
        return np.zeros_like(mask)
    reach = np.zeros_like(mask)
    row, column = any_pixel(around, rng)
    cv2.circle(reach, (column, row), max(round(rng.uniform(0.2, 0.8) * side), 2), 1, thickness=-1)
    return reach & others.view(np.uint8)


def _with_a_wrong_piece(depth: FloatMap, side: float, rng: Generator) -> FloatMap:
    """Depths in which an ellipse on the outline is missing, or marked as well."""
    outline = np.abs(depth) <= max(0.1 * side, 1.5)
    row, column = any_pixel(outline if outline.any() else np.ones_like(outline), rng)
    axes = [max(rng.uniform(0.05, 0.35) * side, 1.5) for _ in range(2)]
    rows, columns = np.ogrid[: depth.shape[0], : depth.shape[1]]
    turn = rng.uniform(0, np.pi)
    along = (rows - row) * np.sin(turn) + (columns - column) * np.cos(turn)
    across = (rows - row) * np.cos(turn) - (columns - column) * np.sin(turn)
    inside = (1 - np.hypot(along / axes[0], across / axes[1])) * min(axes)  # some pixels inside the ellipse
    if rng.random() < 0.5:
        return np.asarray(np.minimum(depth, -inside), np.float32)
    return np.asarray(np.maximum(depth, inside), np.float32)


def _smooth_noise(shape: tuple[int, ...], length: float, rng: Generator) -> FloatMap:
    """(H, W) noise of standard deviation near 1 that changes over some `length` pixels."""
    coarse = rng.standard_normal([max(round(side / length), 1) + 2 for side in shape[:2]]).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)
