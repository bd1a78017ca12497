"""The training parts of SBD and Pascal VOC, read from their published layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import find_objects

from icmformer.errors import ConfigError, UnreadableImageError
from icmformer.images.reading import read_image

from .records import ImageRecord

SBD = "sbd"
_SLIVER = 0.08


def read_sbd(path: Path) -> NDArray[np.int32]:
    """SBD's instances, (H, W): ids."""
    return np.asarray(loadmat(str(path))["GTinst"][0, 0]["Segmentation"], np.int32)


def read_voc(path: Path) -> NDArray[np.int32]:
    """Pascal VOC's objects, (H, W): ids, -1 ignored."""
    with Image.open(path) as image:  # palette image: the indices are the ids, 255 is void
        ids = np.asarray(image, np.int32)
    return np.where(ids == 255, -1, ids)


def without_slivers(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) labels without objects that fill under 8% of their box, which become background.

    In SBD such masks are faulty; the published training drops them, the benchmark does not.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    for value, box in enumerate(find_objects(labels), 1):
        if box is not None and counts[value] < _SLIVER * np.prod([side.stop - side.start for side in box]):
            labels = np.where(labels == value, np.uint8(0), labels)
    return labels


@dataclass(frozen=True)
class Layout:
    """Where a set's files are.

    Attributes:
        name: The set's.
        train: Its list of images.
        image: Path of an image.
        mask: Path of its masks.
        read: Reads them: ids, -1 ignored.
    """

    name: str
    train: str
    image: str
    mask: str
    read: Callable[[Path], NDArray[np.int32]]


LAYOUTS = (
    Layout(SBD, "train.txt", "img/{}.jpg", "inst/{}.mat", read_sbd),
    Layout("voc", "ImageSets/Segmentation/train.txt", "JPEGImages/{}.jpg", "SegmentationObject/{}.png", read_voc),
)


class Published:
    """One of them as a source of training images.

    Attributes:
        unreadable: Images of the list that are not there, which are not among the records.

    Raises:
        ConfigError: An empty list.
    """

    def __init__(self, root: Path, layout: Layout) -> None:
        names = [line.split()[0] for line in (root / layout.train).read_text().splitlines() if line.strip()]
        self._layout = layout
        if not names:
            raise ConfigError(f"{root / layout.train} names no image")
        self._pairs: list[tuple[Path, Path]] = []
        self.records: list[ImageRecord] = []
        self.unreadable: list[UnreadableImageError] = []
        for name in names:
            pair = root / layout.image.format(name), root / layout.mask.format(name)
            if missing := next((path for path in pair if not path.is_file()), None):
                self.unreadable.append(UnreadableImageError(f"{root.name}: {name}", f"{missing} is not there"))
                continue
            self._pairs.append(pair)
            self.records.append(ImageRecord(name, layout.name, (1,)))  # every image of them holds objects

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns image `index` as RGB (H, W, 3) and its label map (H, W)."""
        image, mask = self._pairs[index]
        pixels, truth = read_image(image).pixels, self._layout.read(mask)
        if truth.shape != pixels.shape[:2] or truth.max() > 254:
            raise ConfigError(f"{mask} does not fit its image {image}")
        return pixels, np.where(truth < 0, 255, truth).astype(np.uint8)
