"""Regions of one colour as targets: what an annotator may mean that is no object.

Walls without their windows, stains, cracks, cells: kinds of targets that photos with object masks do not show, but that
clicks and a mask which is nearly right say well enough. The regions come from the photo's colours alone.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from icmformer.types import BoolMask, FloatMap

_COLOURS = (3, 9)
"""Least and most colours that a photo is divided into, the latter not included."""
_ROUNDS = 4
_SAMPLE = 2048
_MOST = 0.5
"""Largest share of the input that a region covers."""
_TRIES = 4


def colour_region(image: NDArray[np.uint8], valid: BoolMask, least: float, rng: Generator) -> BoolMask | None:
    """Draws a connected region of one colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        valid: (H, W) bool: where it may be; not beyond the photo, say.
        least: Smallest share of the image that it covers.
        rng: Randomness of this sample.

    Returns:
        (H, W) bool, holes included; None where no region is of a suitable size.
    """
    smooth = cv2.medianBlur(image, int(rng.choice((3, 5, 7))))
    colours = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32)
    colours[..., 0] *= rng.uniform(0.4, 1.0)  # light and shade count less than colour, more or less so
    labels = cv2.medianBlur(_nearest(colours, _palette(colours.reshape(-1, 3), rng)), 5)
    size = labels.size
    for label in rng.permutation(int(labels.max()) + 1)[:_TRIES]:
        own = ((labels == label) & valid).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=4)
        areas = stats[:, cv2.CC_STAT_AREA].astype(float)
        areas[0] = 0  # what has other colours
        areas[(areas < max(least * size, 1)) | (areas > _MOST * size)] = 0
        if areas.any():
            weights = np.sqrt(areas)
            return np.asarray(parts == rng.choice(len(weights), p=weights / weights.sum()))
    return None


def _palette(colours: FloatMap, rng: Generator) -> FloatMap:
    """(K, 3) colours that many of (N, 3) colours are near to: some rounds of k-means on a part of them."""
    part = colours[rng.integers(len(colours), size=_SAMPLE)]
    found = part[rng.integers(len(part), size=int(rng.integers(*_COLOURS)))]
    for _ in range(_ROUNDS):
        nearest = _distances(part, found).argmin(axis=1)
        for index in range(len(found)):
            own = part[nearest == index]
            if len(own):
                found[index] = own.mean(axis=0)
    return found


def _nearest(colours: FloatMap, palette: FloatMap) -> NDArray[np.uint8]:
    """(H, W) number of the palette's colour that each of (H, W, 3) colours is nearest to."""
    flat = colours.reshape(-1, 3)
    return np.asarray(_distances(flat, palette).argmin(axis=1), np.uint8).reshape(colours.shape[:2])


def _distances(colours: FloatMap, palette: FloatMap) -> FloatMap:
    """(N, K) squared distances, less what is the same for all of a row."""
    return np.asarray((palette**2).sum(axis=1) - 2 * colours @ palette.T, np.float32)
