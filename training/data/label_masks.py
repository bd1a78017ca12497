"""Mask files whose values are the ids of objects: read, and judged where they are not clean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.errors import ConfigError, ImageError
from icmformer.images.reading import DEFAULT_MAX_PIXELS, check_size

from .objects import IGNORE, MOST_OBJECTS

_BRIGHT = 200
"""The least value of an object in a mask of two values with soft edges."""
_MOST_FLAT = 0.1
"""Share of pixels without an edge beside them, among values between the two, where these are edges."""
_MOST_EDGE = 2
"""Pixels of soft edges for each of the body that they are the edges of."""
_MOST_IDS = 32
"""Values between the two that may be ids of objects of few pixels."""
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
    try:
        thresholded = not palette and _between_two(values, lossy)
    except ConfigError as error:
        raise ConfigError(f"{path} cannot be used as a mask: {error}") from error
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
            alpha = image.mode in ("RGBA", "LA") and np.ptp(values[..., -1]) > 0
    except (ImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} cannot be used as a mask: {error}") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ConfigError(f"{path} cannot be read as a mask: {error}") from error
    if values.ndim == 3 and not palette:
        gray = values[..., : 3 if values.shape[2] > 2 else 1]
        if (gray != gray[..., :1]).any():
            raise ConfigError(f"{path} is in colour; a mask is a gray or palette image whose values are the ids")
        values = gray[..., 0]
        if alpha and not np.ptp(values):
            raise ConfigError(f"{path} has its mask in the transparency; a mask's values are those of its gray levels")
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ConfigError(f"{path} holds no whole numbers; a mask is a gray or palette image whose values are the ids")
    return values, lossy, palette


def _between_two(values: NDArray[Any], lossy: bool) -> bool:
    """Whether a mask has two values but for its edges, over which values rise from pixel to pixel.

    Raises:
        ConfigError: Values that rise and fall everywhere, as in a picture: neither ids nor edges.
    """
    highest = int(values.max(initial=0))
    if highest > IGNORE:
        return False
    noise = _NOISE if lossy else 0
    between = (values > noise) & (values < highest - noise)
    number = np.count_nonzero(between)
    if not number:
        return lossy and highest >= _BRIGHT
    if np.count_nonzero(between & _flat(values)) > _MOST_FLAT * number:  # areas of one value: ids
        return False
    body = np.count_nonzero(values >= highest - _NOISE)
    edge = np.count_nonzero((values > _NOISE) & (values < highest - _NOISE))
    if highest >= _BRIGHT and edge <= _MOST_EDGE * body:
        return True
    if not lossy and len(np.unique(values[between])) > _MOST_IDS:
        raise ConfigError("its values change from pixel to pixel, as in a picture; a mask's values are the ids")
    return False


def _flat(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours have their value."""
    flat = np.zeros(values.shape, bool)
    inner = values[1:-1, 1:-1]
    neighbours = (values[:-2, 1:-1], values[2:, 1:-1], values[1:-1, :-2], values[1:-1, 2:])
    flat[1:-1, 1:-1] = np.logical_and.reduce([inner == other for other in neighbours])
    return flat


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
