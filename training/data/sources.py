"""Opens what a training config names below `--data-root`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError
from training.data.coco_lvis.store import LayeredShards
from training.data.folders import Folder
from training.data.records import ImageSource
from training.data.sbd_voc import LAYOUTS, Published
from training.data.shards import open_shard


class Images:
    """Several sources side by side, as one."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = sources
        self._places = [(s, i) for s, source in enumerate(sources) for i in range(len(source.records))]
        self.records = [record for source in sources for record in source.records]

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        source, place = self._places[index]
        return self._sources[source].load(place)


def open_images(root: Path, names: Sequence[str]) -> Images:
    """Opens what `names` are below `root`, without the images that are held out.

    Raises:
        ConfigError: One that is not there or cannot be read, or no labelled image in any of them.
    """
    images = Images([_open(root / name) for name in names])
    if not any(record.labels for record in images.records):
        raise ConfigError(f"there is no labelled image to train on in {', '.join(names)} of {root}")
    return images


def _open(path: Path) -> ImageSource:
    """Zip shards, sets of layered shards (`set.json`), SBD's and Pascal VOC's training parts, folders of pairs."""
    if path.suffix == ".zip":
        return open_shard(path)
    if not path.is_dir():
        raise ConfigError(
            f"there is no folder {path}: data.shards names zip shards and folders below --data-root (docs/training.md, "
            '"Data"; sets of COCO and LVIS are made by training.data.build_coco_lvis)'
        )
    if (path / "set.json").is_file():
        return LayeredShards(path)
    layout = next((known for known in LAYOUTS if (path / known.train).is_file()), None)
    return Published(path, layout) if layout else Folder(path)
