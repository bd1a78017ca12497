"""The original files: LVIS's JSON, COCO's panoptic JSON with its PNG files, COCO's instances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError
from icmformer.types import BoolMask
from training.data.coco_segmentation import decode


class Instances:
    """Instances by image, of LVIS or COCO; crowds are left out.

    Raises:
        ConfigError: Not such a file.
    """

    def __init__(self, path: Path) -> None:
        content = _json(path, ("images", "annotations"))
        self.images: dict[int, tuple[str, int, int]] = {}
        for image in content["images"]:
            name = image.get("file_name") or str(image["coco_url"]).rsplit("/", 1)[-1]
            self.images[int(image["id"])] = (Path(name).name, int(image["height"]), int(image["width"]))
        self._by_image: dict[int, list[Any]] = {}
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                self._by_image.setdefault(int(annotation["image_id"]), []).append(annotation["segmentation"])

    def masks(self, image: int) -> list[BoolMask]:
        """(H, W) bool of each instance of an image."""
        if image not in self._by_image:
            return []
        _, height, width = self.images[image]
        return [decode(segmentation, height, width) for segmentation in self._by_image[image]]


class Panoptic:
    """COCO's panoptic annotations.

    Args:
        path: The JSON file.
        folder: Of the PNG files.

    Raises:
        ConfigError: Not such a file.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        content = _json(path, ("images", "annotations", "categories"))
        self._folder = folder
        self._things = {int(c["id"]) for c in content["categories"] if c["isthing"]}
        self._segments = {int(a["image_id"]): a for a in content["annotations"]}
        self.images = {
            int(i["id"]): (Path(str(i["file_name"])).with_suffix(".jpg").name, int(i["height"]), int(i["width"]))
            for i in content["images"]
        }

    def masks(self, image: int) -> tuple[list[BoolMask], list[BoolMask]]:
        """(H, W) bool of each thing and of each stuff of an image; crowds are left out."""
        if image not in self._segments:
            return [], []
        annotation = self._segments[image]
        ids = self._ids(self._folder / annotation["file_name"])
        found: tuple[list[BoolMask], list[BoolMask]] = ([], [])
        for segment in annotation["segments_info"]:
            if not segment.get("iscrowd"):
                found[int(segment["category_id"]) not in self._things].append(ids == int(segment["id"]))
        return found

    @staticmethod
    def _ids(path: Path) -> NDArray[np.int32]:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ConfigError(f"the panoptic file {path} is not there or damaged")
        blue, green, red = (pixels[..., i].astype(np.int32) for i in range(3))
        ids: NDArray[np.int32] = red + 256 * green + 65536 * blue
        return ids


def _json(path: Path, keys: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not set(keys) <= content.keys():
        raise ConfigError(f"{path} is not what it should be: it lacks {', '.join(keys)}")
    return content
