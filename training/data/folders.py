"""Folders of image and mask pairs as a source of training images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.errors import ConfigError, UnreadableImageError
from icmformer.images.reading import FORMATS, read_image

from .label_masks import read_label_mask
from .objects import IGNORE
from .records import ImageRecord

IMAGE_ENDINGS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)
"""Endings, in lower case, of the files that are taken for images: those of all formats that are opened."""
_OF_SYSTEMS = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
"""What operating systems leave in folders, beside hidden files such as a Mac's `._NAME`."""


def image_pairs(images: Path, masks: Path) -> Iterator[tuple[Path, Path]]:
    """Image and mask files that share their stem, in order.

    Raises:
        ConfigError: A missing folder, an image without a mask, two files of one name.
    """
    by_stem = _by_stem(masks)
    for image in _by_stem(images).values():
        if image.stem not in by_stem:
            raise ConfigError(_no_mask(image, masks))
        yield image, by_stem[image.stem]


def _no_mask(image: Path, masks: Path) -> str:
    return f"{image} has no mask of that name in {masks}"


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in files_in(folder):
        if not _is_image(path):
            continue
        if path.stem in files:
            raise ConfigError(f"{path} and {files[path.stem]} have the same name; which one is meant?")
        files[path.stem] = path
    return files


def files_in(folder: Path) -> list[Path]:
    """What a folder of a data set holds, in order, without hidden files and what systems leave there.

    Raises:
        ConfigError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; --root must be the data set's own folder")
    return sorted(p for p in folder.iterdir() if not is_left_by_a_system(p.name))


def is_left_by_a_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that operating systems leave beside others."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS


class Folder:
    """`images/` and `masks/`, paired by name.

    Masks are label maps, see `read_label_mask`. Of more than 254 objects the smallest are ignored. Nothing of a folder
    is held out.

    Attributes:
        unreadable: Images without a mask that can be read, which are not among the records.
        others: Names of files and folders that are no images.

    Raises:
        ConfigError: Missing folders, or two images or masks of one name.
    """

    def __init__(self, root: Path) -> None:
        images, masks = root / "images", root / "masks"
        self._pairs: list[tuple[Path, Path]] = []
        self.records: list[ImageRecord] = []
        self.unreadable: list[UnreadableImageError] = []
        by_stem = _by_stem(masks)
        self.others = [
            f"{p.parent.name}/{p.name}" for part in (images, masks) for p in files_in(part) if not _is_image(p)
        ]
        for image in _by_stem(images).values():
            try:
                if image.stem not in by_stem:
                    raise ConfigError(_no_mask(image, masks))
                labels = np.unique(read_label_mask(by_stem[image.stem]).labels)
            except ConfigError as error:
                self.unreadable.append(UnreadableImageError(f"{root.name}: {image.name}", str(error)))
                continue
            ids = tuple(int(i) for i in labels if i not in (0, IGNORE))
            self._pairs.append((image, by_stem[image.stem]))
            self.records.append(ImageRecord(image.stem, root.name, ids))

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns image `index` as RGB (H, W, 3) and its label map (H, W).

        Raises:
            ImageError: An image that cannot be read.
            ConfigError: A mask that cannot be read, or of another size than its image.
        """
        image, mask = self._pairs[index]
        pixels, labels = read_image(image).pixels, read_label_mask(mask).labels
        if labels.shape != pixels.shape[:2]:
            raise ConfigError(
                f"{image} and {mask} are of different sizes: {_size(pixels)} and {_size(labels)} pixels (as shown, "
                "which for the image is after turning it as its EXIF data say)"
            )
        return pixels, labels


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
