"""Folders of photo and mask pairs as a source of training photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.errors import ConfigError
from icmformer.images.reading import read_image
from training.data.records import PhotoRecord
from training.evaluation.benchmarks import image_pairs

IGNORE = 255
_MOST_OBJECTS = 254


class Folder:
    """`images/` and `masks/`, paired by name.

    A mask is a gray or palette image: 0 background, 255 ignored, every other value an object. One whose only value
    beside 0 is 255 (or 1) holds that one object. Of more than 254 objects the smallest are ignored. Nothing of a
    folder is held out.

    Raises:
        ConfigError: Missing folders, a photo without a mask, masks that are no label maps.
    """

    def __init__(self, root: Path) -> None:
        self._pairs = list(image_pairs(root / "images", root / "masks"))
        self.records = []
        for image, mask in self._pairs:
            labels = np.unique(_labels(mask))
            ids = tuple(int(i) for i in labels if i not in (0, IGNORE))
            self.records.append(PhotoRecord(image.stem, root.name, ids))

    def image_file(self, index: int) -> Path:
        """The file of photo `index`."""
        return self._pairs[index][0]

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = self._pairs[index]
        photo, labels = read_image(image).pixels, _labels(mask)
        if labels.shape != photo.shape[:2]:
            raise ConfigError(f"{image} and {mask} are of different sizes")
        return photo, labels


def _labels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as a mask: {error}") from error
    if values.ndim != 2:
        raise ConfigError(f"{path} is in colour; a mask is a gray or palette image whose values are the ids")
    ids, inverse, sizes = np.unique(values.astype(np.int64), return_inverse=True, return_counts=True)
    if set(ids.tolist()) <= {0, IGNORE}:
        return (values > 0).astype(np.uint8)
    beyond = ids.max() > IGNORE  # more values than a byte holds: 255 is one object among them
    places = np.flatnonzero((ids != 0) & ((ids != IGNORE) | beyond))
    large = np.sort(places[np.argsort(-sizes[places], kind="stable")][:_MOST_OBJECTS])
    table = np.zeros(len(ids), np.uint8)
    table[places] = IGNORE
    table[large] = np.arange(1, len(large) + 1)
    if not beyond:
        table[ids == IGNORE] = IGNORE
    return table[inverse].reshape(values.shape)
