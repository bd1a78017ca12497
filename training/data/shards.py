"""Zip shards of images with label maps: random access, no unpacking.

A shard holds `index.jsonl` (one record an image: key, set, labels, source, licence and flags, such as whether that
licence is permissive), `<key>.webp` and `<key>.png`, a label map in uint8: 0 background, 255 ignored, the rest object
ids.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError

from .held_out import held_out
from .records import ImageRecord


class Shard:
    """Random access to the images of a zip shard.

    Args:
        path: The zip file.
        include_held_out: Also list the images that `held_out` names; never for training.

    Safe to use in forked or spawned worker processes: each opens the file for itself.
    """

    def __init__(self, path: Path, include_held_out: bool = False) -> None:
        self.path = Path(path)
        self._open: dict[int, zipfile.ZipFile] = {}
        self.records: list[ImageRecord] = []
        for line in self._zip().read("index.jsonl").splitlines():
            row = json.loads(line)
            if not row["labels"] or (not include_held_out and held_out(row["set"], row["key"])):
                continue
            source, licence = (str(row.get(name) or "") for name in ("source", "licence"))
            record = ImageRecord(
                row["key"],
                row["set"],
                tuple(row["labels"]),
                semantic_parts=bool(row.get("semantic_parts")),
                segments=bool(row.get("segments")),
                source=source,
                licence=licence,
                permissive=row.get("permissive") is True,
            )
            self.records.append(record)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns image `index` as RGB uint8 (H, W, 3) and its label map as uint8 (H, W).

        Raises:
            ConfigError: The image or its label map is not there, damaged, or of another size than the other.
        """
        key = self.records[index].key
        try:
            archive = self._zip()
            image = cv2.imdecode(np.frombuffer(archive.read(f"{key}.webp"), np.uint8), cv2.IMREAD_COLOR)
            labels = cv2.imdecode(np.frombuffer(archive.read(f"{key}.png"), np.uint8), cv2.IMREAD_UNCHANGED)
        except MemoryError:
            raise
        except Exception as error:  # damaged archives and images make libraries raise nearly anything
            raise ConfigError(
                f"the image {key} of {self.path} or its label map is damaged ({type(error).__name__}: {error})"
            ) from error
        if image is None or labels is None or labels.dtype != np.uint8 or labels.shape != image.shape[:2]:
            raise ConfigError(f"the image {key} of {self.path} or its label map is damaged")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), np.asarray(labels, np.uint8)

    def _zip(self) -> zipfile.ZipFile:
        process = os.getpid()
        if process not in self._open:
            self._open[process] = zipfile.ZipFile(self.path)
        return self._open[process]


def open_shard(path: Path, include_held_out: bool = False) -> Shard:
    """Opens a shard.

    Raises:
        ConfigError: Not there, or not a shard.
    """
    if not path.is_file():
        raise ConfigError(f"there is no shard {path}")
    try:
        return Shard(path, include_held_out)
    except MemoryError:
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise ConfigError(f"{path} is not a shard of images ({error})") from error
