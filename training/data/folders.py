"""Folders of image and mask pairs as a source of training images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.errors import ConfigError
from icmformer.images.reading import read_image
from training.data.objects import IGNORE, MOST_OBJECTS
from training.data.records import ImageRecord

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def image_pairs(images: Path, masks: Path) -> Iterator[tuple[Path, Path]]:
    """Image and mask files that share their stem, in order.

    Raises:
        ConfigError: A missing folder, an image without a mask, two files of one name.
    """
    by_stem = _by_stem(masks)
    for image in _by_stem(images).values():
        if image.stem not in by_stem:
            raise ConfigError(f"{image} has no mask of that name in {masks}")
        yield image, by_stem[image.stem]


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in files_in(folder):
        if path.suffix.lower() not in _IMAGES:
            continue
        if path.stem in files:
            raise ConfigError(f"{path} and {files[path.stem]} have the same name; which one is meant?")
        files[path.stem] = path
    return files


def files_in(folder: Path) -> list[Path]:
    """What a folder of a data set holds, in order.

    Raises:
        ConfigError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; --root must be the data set's own folder")
    return sorted(folder.iterdir())


class Folder:
    """`images/` and `masks/`, paired by name.

    A mask is a gray or palette image: 0 background, 255 ignored, every other value an object. One whose only value
    beside 0 is 255 (or 1) holds that one object. Of more than 254 objects the smallest are ignored. Nothing of a
    folder is held out.

    Raises:
        ConfigError: Missing folders, an image without a mask, masks that are no label maps.
    """

    def __init__(self, root: Path) -> None:
        self._pairs = list(image_pairs(root / "images", root / "masks"))
        self.records = []
        for image, mask in self._pairs:
            labels = np.unique(_labels(mask))
            ids = tuple(int(i) for i in labels if i not in (0, IGNORE))
            self.records.append(ImageRecord(image.stem, root.name, ids))

    def image_file(self, index: int) -> Path:
        """The file of image `index`."""
        return self._pairs[index][0]

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = self._pairs[index]
        pixels, labels = read_image(image).pixels, _labels(mask)
        if labels.shape != pixels.shape[:2]:
            raise ConfigError(f"{image} and {mask} are of different sizes")
        return pixels, labels


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
    large = np.sort(places[np.argsort(-sizes[places], kind="stable")][:MOST_OBJECTS])
    table = np.zeros(len(ids), np.uint8)
    table[places] = IGNORE
    table[large] = np.arange(1, len(large) + 1)
    if not beyond:
        table[ids == IGNORE] = IGNORE
    return table[inverse].reshape(values.shape)
