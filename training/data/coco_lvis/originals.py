"""The original files: LVIS's JSON, COCO's panoptic JSON with its PNG files, COCO's instances."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError, ImageError
from icmformer.images.reading import DEFAULT_MAX_PIXELS, decode_image

from ..coco_segmentation import encode
from ..outlines import BadAnnotationError, entry_id, whole_number
from ..packed_mask import PackedMask

_NO_PIXEL = "no pixel of the image"
_LONGEST_SIDE = 65_535  # of JPEG
_LONGEST_ID = 200
_LONGEST_TOLD = 80

ImageId = int | str
"""By what a file names an image; see `entry_id`."""

Skipped = list[tuple[str, str, str]]
"""What was left out: kind, name, and details that may be empty."""


def image_id(text: str) -> ImageId:
    """The id of an image by its text, as the set's keys have it."""
    number = whole_number(text)
    return text if number is None else number


class Instances:
    """Instances by image, of LVIS or COCO; crowds are left out.

    Args:
        path: The JSON file.

    Attributes:
        file: Its name.
        images: File name, height and width by id.
        skipped: Entries that cannot be read or belong to no image.

    Raises:
        ConfigError: Not such a file.
    """

    def __init__(self, path: Path) -> None:
        content = _json(path, ("images", "annotations"))
        self.file = path.name
        self.skipped: Skipped = []
        self.images = _images(content["images"], path, self.skipped)
        self._by_image: dict[ImageId, list[tuple[str, Any]]] = {}
        for number, annotation in enumerate(content["annotations"], 1):
            if not isinstance(annotation, dict):
                self.skipped.append(("an entry that is no annotation", f"number {number} of {path.name}", ""))
                continue
            image = entry_id(annotation.get("image_id"))
            name = f"annotation {_told(annotation['id']) if 'id' in annotation else f'number {number}'}"
            if image is None or image not in self.images:
                self.skipped.append(("an annotation of no image of the file", f"{name} of {path.name}", ""))
            elif not annotation.get("iscrowd"):
                self._by_image.setdefault(image, []).append((name, annotation.get("segmentation")))

    def masks(self, image: ImageId, skipped: Skipped | None = None) -> list[PackedMask]:
        """Each instance of an image.

        Args:
            image: Its id.
            skipped: Gets the annotations that are left out because they outline nothing or cannot be.
        """
        found: list[PackedMask] = []
        for name, segmentation in self._by_image.get(image, []):
            _, height, width = self.images[image]
            try:
                mask = encode(segmentation, height, width)
                if not mask.area:
                    raise BadAnnotationError(_NO_PIXEL)
                found.append(mask)
            except BadAnnotationError as error:
                if skipped is not None:
                    skipped.append((error.kind, f"{name} of image {image} of {self.file}", error.text))
        return found


class Panoptic:
    """COCO's panoptic annotations.

    Args:
        path: The JSON file.
        folder: Of the PNG files.

    Attributes:
        file: Its name.
        images: File name, height and width by id.
        skipped: Entries that cannot be read.

    Raises:
        ConfigError: Not such a file.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        content = _json(path, ("images", "annotations", "categories"))
        self.file = path.name
        self._folder = folder
        self.skipped: Skipped = []
        categories = [c for c in content["categories"] if isinstance(c, dict)]
        self._isthing = {entry_id(c.get("id")): bool(c.get("isthing")) for c in categories}
        images = _images(content["images"], path, self.skipped)
        self.images = {
            n: (str(Path(name).with_suffix(".jpg")), height, width) for n, (name, height, width) in images.items()
        }
        self._segments: dict[ImageId, Mapping[str, Any]] = {}
        for place, annotation in enumerate(content["annotations"], 1):
            whole = isinstance(annotation, dict) and isinstance(annotation.get("segments_info"), list)
            number = entry_id(annotation.get("image_id")) if whole else None
            if number not in self.images or not isinstance(annotation.get("file_name"), str):
                told = ("an entry that is no panoptic annotation of an image", f"number {place} of {path.name}", "")
                self.skipped.append(told)
            elif number is not None:
                self._segments[number] = annotation
        names = [annotation["file_name"] for annotation in self._segments.values()]
        if names and not any(os.path.exists(folder / name) for name in names):
            raise ConfigError(f"the panoptic files are not there or damaged: none of {len(names):,} is in {folder}")

    def masks(self, image: ImageId, skipped: Skipped | None = None) -> tuple[list[PackedMask], list[PackedMask]]:
        """Each thing and each stuff of an image; crowds are left out.

        Args:
            image: Its id.
            skipped: Gets the segments that are left out because they, or the PNG file, cannot be read.
        """
        found: tuple[list[PackedMask], list[PackedMask]] = ([], [])
        if image not in self._segments:
            return found
        skipped = [] if skipped is None else skipped
        annotation, size = self._segments[image], self.images[image][1:]
        try:
            ids = self._ids(annotation["file_name"])
        except BadAnnotationError as error:
            skipped.append((error.kind, annotation["file_name"], error.text))
            return found
        if ids.shape != size:
            told = f"{ids.shape[0]} x {ids.shape[1]}, not {size[0]} x {size[1]}"
            skipped.append(("a panoptic file of another size", annotation["file_name"], told))
            return found
        for place, segment in enumerate(annotation["segments_info"], 1):
            known = segment if isinstance(segment, dict) else {}
            number, thing = whole_number(known.get("id")), self._isthing.get(entry_id(known.get("category_id")))
            name = f"segment number {place} of {annotation['file_name']}"
            if number is None or thing is None:
                skipped.append(("a panoptic segment without id or category", name, ""))
            elif not known.get("iscrowd"):
                mask = PackedMask.of(ids == number)
                if mask.area:
                    found[not thing].append(mask)
                else:
                    skipped.append((_NO_PIXEL, name, ""))
        return found

    def _ids(self, name: str) -> NDArray[np.int32]:
        """(H, W) segment ids.

        Raises:
            BadAnnotationError: The file is not there, or damaged.
        """
        try:
            pixels = decode_image((self._folder / name).read_bytes(), shown_by="cvat")  # without alpha, were there any
        except ImageError as error:
            raise BadAnnotationError("a panoptic file that cannot be read", str(error)) from error
        except (OSError, ValueError) as error:
            raise BadAnnotationError("a panoptic file that is not there", str(error)) from error
        red, green, blue = (pixels[..., i].astype(np.int32) for i in range(3))
        ids: NDArray[np.int32] = np.asfortranarray(red + 256 * green + 65536 * blue)  # packing goes by columns
        return ids


def _images(entries: Any, path: Path, skipped: Skipped) -> dict[ImageId, tuple[str, int, int]]:
    """File name, height and width by id."""
    found: dict[ImageId, tuple[str, int, int]] = {}
    for place, entry in enumerate(entries, 1):
        image = entry if isinstance(entry, dict) else {}
        number, height, width = entry_id(image.get("id")), *(whole_number(image.get(k)) for k in ("height", "width"))
        name = Path(str(image.get("file_name") or image.get("coco_url") or "")).name
        kind, told = "", ""
        if number is None or not name or not height or not width or min(height, width) < 0:
            kind = "an image without id, name or size"
        elif entry_id(str(number)) != number or len(str(number)) > _LONGEST_ID or not str(number).isprintable():
            kind = "an image whose id is neither a count nor a word"
        elif max(height, width) > _LONGEST_SIDE or height * width > DEFAULT_MAX_PIXELS:
            kind, told = "an image too large to be one", f": {_told(height)} x {_told(width)}"
        else:
            found[number] = (name, height, width)
            continue
        skipped.append((kind, f"number {place} of {path.name}", f"{name[:_LONGEST_TOLD]}{told}"))
    return found


def _json(path: Path, keys: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise ConfigError(f"{path} is not what it should be: it lacks lists of {', '.join(keys)}")
    return content


def _told(value: Any) -> str:
    """A value for messages, never long."""
    return value[:_LONGEST_TOLD] if isinstance(value, str) else reprlib.repr(value)
