"""Copy-paste: an object of another photo in front of what a sample shows, as its target or in front of its target.

With few photos, an object is always seen before the same background. Pasted, it is seen before any, at any size, and
its outline is exact (Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation",
CVPR 2021).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from icmformer.types import BoolMask, FloatMap

from .augmentation import IGNORED, OTHER

_SIDE = (0.12, 0.8)
"""Least and most longer side of a pasted object over the input's."""
_ENLARGED = 2.0
"""Most that an object is enlarged; more would show."""
_TILT = 25.0
_SOFT = (0.3, 1.0)
"""Least and most standard deviation, in pixels, of what softens the outline."""
_IS_TARGET = 0.5
_LEFT = 0.5
"""Smallest share of a target that an object in front of it leaves to be seen."""


def paste(
    image: NDArray[np.uint8],
    target: NDArray[np.uint8],
    pasted: NDArray[np.uint8],
    truth: BoolMask,
    least: float,
    rng: Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pastes an object: half of the time it becomes the target.

    Args:
        image: (S, S, 3) uint8 RGB: what the sample shows.
        target: (S, S) uint8: 1 object, 2 other objects, 0 background, 255 ignored; nothing is pasted where it is
            ignored.
        pasted: (H, W, 3) uint8 RGB: another photo.
        truth: (H, W) bool: the object in it.
        least: Smallest share of the input that a target covers.
        rng: Randomness of this sample.

    Returns:
        Image and target; as they were where too little of either would be seen.
    """
    is_target = bool(rng.random() < _IS_TARGET)
    matrix = _placement(truth, target, is_target, rng)
    if matrix is None:
        return image, target
    shape = (image.shape[1], image.shape[0])
    share = cv2.warpAffine(truth.astype(np.float32), matrix, shape, flags=cv2.INTER_LINEAR)
    seen = (share > 0.5) & (target != IGNORED)
    cut = np.where(seen, np.uint8(OTHER), target)
    if is_target:
        cut[cut == 1] = OTHER
        cut[seen] = 1
    before = np.count_nonzero(target == 1)
    enough = max(least * target.size, 1) if is_target else max(least * target.size, _LEFT * before, 1)
    if not seen.any() or np.count_nonzero(cut == 1) < enough:
        return image, target
    alpha = cv2.GaussianBlur(share, (0, 0), rng.uniform(*_SOFT))
    alpha[target == IGNORED] = 0
    pixels = cv2.warpAffine(pasted, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    blended = image + alpha[..., None] * (pixels.astype(np.float32) - image)
    return np.rint(blended).astype(np.uint8), cut


def _placement(truth: BoolMask, target: NDArray[np.uint8], is_target: bool, rng: Generator) -> FloatMap | None:
    """(2, 3) matrix from the pasted photo's pixels to the input's: mirrored, turned, of another size, somewhere."""
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    if not len(rows):
        return None
    size = target.shape[0]
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = size * np.exp(rng.uniform(*np.log(_SIDE)))
    scale = min(side / longer, _ENLARGED)
    old = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    new = rng.uniform(0, size - 1, 2)
    before = np.argwhere(target == 1)
    if not is_target and len(before):  # near the object that it may cover a part of
        pixel = before[rng.integers(len(before))]
        new = pixel[::-1] + rng.uniform(-0.6, 0.6, 2) * scale * longer
    angle = np.deg2rad(rng.uniform(-_TILT, _TILT))
    turned = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turned[:, 0] *= -1
    return np.asarray(np.column_stack([turned, new - turned @ old]), np.float64)
