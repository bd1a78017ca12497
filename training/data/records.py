"""What training draws from: photos with label maps, from zip shards and folders alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError


@dataclass(frozen=True)
class PhotoRecord:
    """What is known of a photo before it is opened.

    Attributes:
        key: Name within its source.
        set: The data set the photo comes from.
        labels: Object ids in the label map.
        partial: Only the labelled objects are complete; the rest of the photo may hold unlabelled ones.
        semantic_parts: Labels are classes of parts; one label may cover several objects.
        segments: Labels are regions of an image segmentation rather than objects.
        permissive: Whether the declared licence admits commercial use.
        stuff: Layer and value of what is stuff (sky, grass) rather than an object, of photos with layers.
    """

    key: str
    set: str
    labels: tuple[int, ...]
    partial: bool = False
    semantic_parts: bool = False
    segments: bool = False
    permissive: bool = False
    stuff: tuple[tuple[int, int], ...] = ()


class PhotoSource(Protocol):
    """Photos by number. Safe to use in forked or spawned worker processes."""

    records: Sequence[PhotoRecord]

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns photo `index` as RGB (H, W, 3) and its label map (H, W): 0 background, 255 ignored, else ids.

        Of photos whose objects overlap: layers (H, W, L), each such a map.
        """


class Photos:
    """Several sources side by side."""

    def __init__(self, sources: Sequence[PhotoSource]) -> None:
        self._sources = sources
        self._places = [(s, i) for s, source in enumerate(sources) for i in range(len(source.records))]
        self.records = [record for source in sources for record in source.records]

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        source, place = self._places[index]
        return self._sources[source].load(place)


def open_photos(root: Path, names: Sequence[str]) -> Photos:
    """Opens what `names` are below `root`.

    Zip shards (`*.zip`), sets of layered shards (`set.json`), SBD and Pascal VOC in their published layouts (their
    training parts), folders of pairs (`images/`, `masks/`).

    Raises:
        ConfigError: One that is not there or cannot be read, or no photo in any of them.
    """
    from training.data.coco_lvis.store import LayeredShards
    from training.data.folders import Folder
    from training.data.sbd_voc import LAYOUTS, Published
    from training.data.shards import open_shard

    def source(name: str) -> PhotoSource:
        if name.endswith(".zip"):
            return open_shard(root / name)
        folder = root / name
        if (folder / "set.json").is_file():
            return LayeredShards(folder)
        layout = next((known for known in LAYOUTS if (folder / known.train).is_file()), None)
        return Published(folder, layout) if layout else Folder(folder)

    photos = Photos([source(name) for name in names])
    if not any(record.labels for record in photos.records):
        raise ConfigError(f"there is not one labelled photo to train on in {', '.join(names)} of {root}")
    return photos
