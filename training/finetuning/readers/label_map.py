"""Objects drawn into one map of ids."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from icmformer.types import BoolMask
from training.data.objects import IGNORE, MOST_OBJECTS


def label_map(
    masks: Iterable[BoolMask], height: int, width: int, ignored: Iterable[BoolMask] = (), by_size: bool = True
) -> NDArray[np.uint8]:
    """Draws objects over each other.

    Args:
        masks: (H, W) bool, one an object.
        height: Of the image.
        width: Of the image.
        ignored: What is neither object nor background.
        by_size: Smaller objects lie over larger ones; else later ones over earlier ones. Beyond 254 objects the
            smallest are ignored.
    """
    objects = [mask for mask in masks if mask.any()]
    order = sorted(range(len(objects)), key=lambda i: -int(objects[i].sum()))
    numbers = {index: place for place, index in enumerate(sorted(order[:MOST_OBJECTS]), 1)}
    labels = np.zeros((height, width), np.uint8)
    for mask in ignored:
        labels[mask] = IGNORE
    for index in order if by_size else range(len(objects)):
        labels[objects[index]] = numbers.get(index, IGNORE)
    return labels


def polygon_mask(ring: Iterable[float], height: int, width: int) -> BoolMask:
    """Pixels whose middle lies inside a ring x1, y1, x2, y2, ... of continuous pixels (even-odd rule)."""
    points = np.asarray(list(ring), np.float64).reshape(-1, 2) - 0.5  # pixel middles at whole numbers
    following = np.roll(points, -1, axis=0)
    inside = np.zeros((height, width), bool)
    if len(points) < 3:
        return inside
    columns = np.arange(width)
    for row in range(max(0, int(np.floor(points[:, 1].min()))), min(height - 1, int(np.ceil(points[:, 1].max()))) + 1):
        crosses = (points[:, 1] <= row) != (following[:, 1] <= row)
        if crosses.any():
            a, b = points[crosses], following[crosses]
            at = np.sort(a[:, 0] + (row - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1]))
            inside[row] = np.searchsorted(at, columns, side="right") % 2 == 1
    return inside
