"""Objects drawn into one map of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError
from icmformer.types import BoolMask

IGNORE = 255
MOST_OBJECTS = 254


class AnnotationError(ConfigError):
    """An export that cannot be read."""


@dataclass(frozen=True)
class AnnotatedPhoto:
    """One photo.

    Attributes:
        name: For people and for pairing; unique within an export.
        image: Its file.
        labels: (H, W) uint8: 0 background, 255 ignored, every other value an object.
        skipped: Annotations of the photo that outline nothing, by kind: boxes, key points, lines.
    """

    name: str
    image: Path
    labels: NDArray[np.uint8]
    skipped: Mapping[str, int] = field(default_factory=dict)


def unique_name(file: str) -> str:
    """A photo's name from its file's within the export: folders tell photos of one name apart."""
    return "__".join(Path(file).with_suffix("").parts)


def label_map(
    masks: Iterable[BoolMask], height: int, width: int, ignored: Iterable[BoolMask] = (), by_size: bool = True
) -> NDArray[np.uint8]:
    """Draws objects over each other.

    Args:
        masks: (H, W) bool, one an object.
        height: Of the photo.
        width: Of the photo.
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


class ImageFinder:
    """Finds the photos that an export names, by their file names below a folder.

    Args:
        folder: Searched with all its folders.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise AnnotationError(f"there is no folder {folder}; name the folder of the photos with --images")
        self.folder = folder
        self._by_name: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._by_name.setdefault(path.name, []).append(path)

    def find(self, name: str) -> Path | None:
        """The file of a photo: by its path below the folder, else by its name alone.

        Raises:
            AnnotationError: Several files of that name.
        """
        direct = self.folder / name
        try:
            if ".." not in Path(name).parts and direct.is_file():
                return direct
        except (OSError, ValueError):  # a text that can be no file's name
            return None
        found = self._by_name.get(Path(name).name, [])
        if len(found) > 1:
            raise AnnotationError(f"{name} may be {found[0]} or {found[1]}; rename one of them")
        return found[0] if found else None
