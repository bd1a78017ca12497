"""Zip shards of photos with label maps: random access, no unpacking.

A shard holds `index.jsonl` (one record a photo: key, set, labels and flags), `<key>.webp` (or .jpg, .png) and
`<key>.png`, a uint8 label map with 0 background, 255 ignore and the rest object ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HELD_OUT_SETS = frozenset({"dsb2018", "solar", "facade"})
"""Sets that no network is trained on, to see how it does on kinds of photos it has never met."""


@dataclass(frozen=True)
class PhotoRecord:
    """One photo of a shard.

    Attributes:
        shard: Index into the reader's list of shards.
        key: Name within the shard.
        set: The data set the photo comes from.
        labels: Object ids in the label map.
        partial: Only the labelled objects are complete; the rest of the photo may hold unlabelled ones.
        semantic_parts: Labels are classes of parts; one label may cover several objects.
        segments: Labels are regions of an image segmentation rather than objects.
        permissive: Whether the declared licence admits commercial use.
    """

    shard: int
    key: str
    set: str
    labels: tuple[int, ...]
    partial: bool
    semantic_parts: bool
    segments: bool
    permissive: bool


def held_out(set_name: str, key: str) -> bool:
    """Whether a photo is never trained on: whole sets, and a tenth of every other set, picked by hash of its key."""
    return set_name in HELD_OUT_SETS or hashlib.sha256(key.encode()).digest()[0] % 10 == 0


class Shards:
    """Random access to the photos of several zip shards.

    Args:
        paths: The zip files.
        include_held_out: Also list the photos that `held_out` names; never for training.

    Safe to use in forked or spawned worker processes: each opens the files for itself.
    """

    def __init__(self, paths: Sequence[Path], include_held_out: bool = False) -> None:
        self.paths = [Path(p) for p in paths]
        self._open: dict[tuple[int, int], zipfile.ZipFile] = {}
        self.records: list[PhotoRecord] = []
        for shard, _path in enumerate(self.paths):
            for line in self._zip(shard).read("index.jsonl").splitlines():
                row = json.loads(line)
                if not row["labels"] or (not include_held_out and held_out(row["set"], row["key"])):
                    continue
                self.records.append(
                    PhotoRecord(
                        shard,
                        row["key"],
                        row["set"],
                        tuple(row["labels"]),
                        partial=bool(row.get("partial")),
                        semantic_parts=bool(row.get("semantic_parts")),
                        segments=bool(row.get("segments")),
                        permissive=bool(row.get("permissive")),
                    )
                )

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns photo `index` as RGB uint8 (H, W, 3) and its label map as uint8 (H, W)."""
        record = self.records[index]
        archive = self._zip(record.shard)
        photo = cv2.imdecode(np.frombuffer(archive.read(f"{record.key}.webp"), np.uint8), cv2.IMREAD_COLOR)
        labels = cv2.imdecode(np.frombuffer(archive.read(f"{record.key}.png"), np.uint8), cv2.IMREAD_UNCHANGED)
        return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB), labels

    def _zip(self, shard: int) -> zipfile.ZipFile:
        key = (os.getpid(), shard)
        if key not in self._open:
            self._open[key] = zipfile.ZipFile(self.paths[shard])
        return self._open[key]
