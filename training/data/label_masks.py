"""Mask files whose values are the ids of objects: read, and judged where they are not clean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.errors import ConfigError, ImageError
from icmformer.images.reading import DEFAULT_MAX_PIXELS, check_size
from training.data.objects import IGNORE, MOST_OBJECTS

_BRIGHT = 200
"""The least value of an object in a mask of two values with soft edges."""
_EDGE, _LOSSY_EDGE = 3, 8
"""Pixels from an outline within which values may lie between the two: of soft edges, and of JPEG's blocks."""
_NOISE = 24


@dataclass(frozen=True)
class LabelMask:
    """A mask file.

    Attributes:
        labels: (H, W) uint8: 0 background, 255 ignored, every other value an object.
        thresholded: It had soft edges or was stored as JPEG; values from half the brightest on are the object.
        dropped: Objects beyond the largest 254, which are ignored.
    """

    labels: NDArray[np.uint8]
    thresholded: bool
    dropped: int


def read_label_mask(path: Path) -> LabelMask:
    """Reads a mask file: a gray or palette image, or one in colour whose channels are equal.

    0 is background, 255 ignored, every other value an object. A mask whose only value beside 0 is 255 (or 1) holds
    that one object, and so does one of two values but for its edges. Values above 255 are ids like others.

    Raises:
        ConfigError: No image, in colour, too large, or with values that JPEG has made uncertain.
    """
    values, lossy, palette = _values(path)
    thresholded = not palette and _between_two(values, lossy)
    if thresholded:
        values = (values >= int(values.max()) / 2).astype(np.uint8)
    elif lossy and values.any():
        raise ConfigError(f"{path} is a JPEG, whose values are not exact, and more than one object: store masks as PNG")
    labels, dropped = _in_bytes(values)
    return LabelMask(labels, thresholded, dropped)


def _values(path: Path) -> tuple[NDArray[Any], bool, bool]:
    """(H, W) whole numbers, whether they come out of a JPEG file, and whether they are of a palette: ids for sure."""
    try:
        with Image.open(path) as image:
            check_size(image.size, DEFAULT_MAX_PIXELS)
            lossy = image.format in ("JPEG", "MPO")
            palette = image.mode in ("P", "1")
            values = np.asarray(image)
    except (ImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} cannot be used as a mask: {error}") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ConfigError(f"{path} cannot be read as a mask: {error}") from error
    if values.ndim == 3 and not palette:
        gray = values[..., : 3 if values.shape[2] > 2 else 1]
        if (gray != gray[..., :1]).any():
            raise ConfigError(f"{path} is in colour; a mask is a gray or palette image whose values are the ids")
        values = gray[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ConfigError(f"{path} holds no whole numbers; a mask is a gray or palette image whose values are the ids")
    return values, lossy, palette


def _between_two(values: NDArray[Any], lossy: bool) -> bool:
    """Whether a mask has two values but for its edges."""
    highest = int(values.max(initial=0))
    if not _BRIGHT <= highest <= IGNORE:
        return False
    noise = _NOISE if lossy else 0
    between = (values > noise) & (values < highest - noise)
    if not between.any():
        return lossy
    bright = values >= highest / 2
    if np.count_nonzero(between) > np.count_nonzero(bright & ~between):  # no body that these could be the edge of
        return False
    edge = _LOSSY_EDGE if lossy else _EDGE
    kernel = np.ones((2 * edge + 1, 2 * edge + 1), np.uint8)
    whole = bright.astype(np.uint8)
    band = cv2.dilate(whole, kernel) != cv2.erode(whole, kernel)
    return not (between & ~band).any()


def _in_bytes(values: NDArray[Any]) -> tuple[NDArray[np.uint8], int]:
    """Values as a label map, and how many objects it has no room for: the smallest are ignored."""
    ids, inverse, sizes = np.unique(values.astype(np.int64), return_inverse=True, return_counts=True)
    if set(ids.tolist()) <= {0, IGNORE}:
        return (values > 0).astype(np.uint8), 0
    beyond = ids.max() > IGNORE  # more values than a byte holds: 255 is one object among them
    places = np.flatnonzero((ids != 0) & ((ids != IGNORE) | beyond))
    large = np.sort(places[np.argsort(-sizes[places], kind="stable")][:MOST_OBJECTS])
    table = np.zeros(len(ids), np.uint8)
    table[places] = IGNORE
    table[large] = np.arange(1, len(large) + 1)
    if not beyond:
        table[ids == IGNORE] = IGNORE
    return table[inverse].reshape(values.shape), len(places) - len(large)
