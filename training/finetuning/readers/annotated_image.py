"""What every reader of exports gives, and how it finds the images that an export names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError


class AnnotationError(ConfigError):
    """An export that cannot be read."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One image with its objects.

    Attributes:
        name: For people and for pairing; unique within an export.
        file: The image's.
        labels: (H, W) uint8: 0 background, 255 ignored, every other value an object.
        skipped: Annotations of the image that outline nothing, by kind: boxes, key points, lines.
    """

    name: str
    file: Path
    labels: NDArray[np.uint8]
    skipped: Mapping[str, int] = field(default_factory=dict)


def unique_name(file: str) -> str:
    """An image's name from its file's within the export: with its folders, where files of one name differ."""
    return "__".join(Path(file).with_suffix("").parts)


class ImageFinder:
    """Finds the images that an export names, by their file names below a folder.

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
        """The file of an image: by its path below the folder, else by its name alone.

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

    def require(self, name: str) -> Path:
        """As `find`, for an image that must be there.

        Raises:
            AnnotationError: None or several files of that name.
        """
        found = self.find(name)
        if found is None:
            raise AnnotationError(
                f"there is no photo {name} in {self.folder}; name the folder of the photos with --images"
            )
        return found
