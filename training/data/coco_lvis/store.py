"""Shards of layers, uint8 label maps into which objects that overlap are packed; a training source over shards.

A shard is a zip of `<image>.<layer>.png` (gray; 0 background, other values objects of that layer) and `index.jsonl`:
for each image its file name, size, layers and objects as [layer, value, parent, stuff]. The folder's `set.json` says
what it is.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError
from icmformer.images.reading import read_image

from ..records import ImageRecord, Place

FORMAT = "icmformer-layers-1"


class LayeredShards:
    """A folder of such shards as a source of training images. Safe to use in forked or spawned worker processes.

    Args:
        root: The folder.

    Raises:
        ConfigError: Not such a folder, one whose images are not there, or a damaged index.
    """

    def __init__(self, root: Path) -> None:
        about = read_about(root)
        self._images = root / about["images"]
        if not self._images.is_dir():
            raise ConfigError(f"the images of {root} are not in {self._images}; put them there, or build the set anew")
        self._rows: list[tuple[Path, Mapping[str, Any]]] = []
        self.records: list[ImageRecord] = []
        for path in sorted(root.glob("shard-*.zip")):
            with zipfile.ZipFile(path) as archive:
                for line in archive.read("index.jsonl").splitlines():
                    row = json.loads(line)
                    if row["objects"]:
                        self._rows.append((path, row))
                        self.records.append(_record(row, about["name"], path))
        self._open: dict[tuple[int, Path], zipfile.ZipFile] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns image `index` as RGB (H, W, 3) and its layers (H, W, L), each as a label map.

        Raises:
            ConfigError: An image of another size than its layers, or a damaged file.
        """
        path, row = self._rows[index]
        pixels = read_image(self._images / row["file"]).pixels
        archive = self._archive(path)
        layers = np.stack([_decode(archive.read(f"{row['key']}.{n}.png"), path) for n in range(row["layers"])], axis=2)
        if layers.shape[:2] != pixels.shape[:2]:
            raise ConfigError(f"the image {row['file']} is of another size than its masks in {path}")
        return pixels, layers

    def _archive(self, path: Path) -> zipfile.ZipFile:
        key = (os.getpid(), path)
        if key not in self._open:
            self._open[key] = zipfile.ZipFile(path)
        return self._open[key]


def read_about(root: Path) -> Mapping[str, Any]:
    """What `set.json` of a folder says.

    Raises:
        ConfigError: There is none, or it is of another format.
    """
    try:
        about: Mapping[str, Any] = json.loads((root / "set.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{root} is no set of layered shards: {error}") from error
    if about.get("format") != FORMAT:
        raise ConfigError(f"{root} is of the format {about.get('format')!r}, not {FORMAT!r}: build it anew")
    return about


def _record(row: Mapping[str, Any], name: str, path: Path) -> ImageRecord:
    places: list[Place] = [(layer, value) for layer, value, _, _ in row["objects"]]
    parents: list[int | None] = [parent for _, _, parent, _ in row["objects"]]
    if any(parent is not None and not 0 <= parent < len(places) for parent in parents):
        raise ConfigError(f"the image {row['key']} in {path} has a part of an object that is not there: build it anew")
    stuff = tuple(place for place, (_, _, _, is_stuff) in zip(places, row["objects"], strict=True) if is_stuff)
    parts = tuple((place, places[p]) for place, p in zip(places, parents, strict=True) if p is not None)
    return ImageRecord(row["key"], name, tuple(range(len(places))), stuff=stuff, parts=parts)


def _decode(data: bytes, path: Path) -> NDArray[np.uint8]:
    layer = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if layer is None or layer.ndim != 2:
        raise ConfigError(f"a layer in {path} is damaged")
    return np.asarray(layer, np.uint8)
