"""Writes shards; `training.data.coco_lvis.store` has their form."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from icmformer.disk import writing

from .rules import Mask, Object, Shape

_MOST = 254  # 255 means ignored everywhere


def pack(masks: Iterable[Mask]) -> tuple[Iterator[NDArray[np.uint8]], list[tuple[int, int]]]:
    """Puts masks into as few layers as come of taking each where it first fits.

    Returns:
        (H, W) uint8 layers, drawn one at a time, and for each mask its layer and value.
    """
    layers: list[list[Shape]] = []
    places = []
    for mask in masks:
        shape = Shape(mask)
        free = (n for n, there in enumerate(layers) if len(there) < _MOST and not any(map(shape.shared, there)))
        layer = next(free, len(layers))
        if layer == len(layers):
            layers.append([])
        layers[layer].append(shape)
        places.append((layer, len(layers[layer])))
    return map(_drawn, layers), places


def _drawn(shapes: Sequence[Shape]) -> NDArray[np.uint8]:
    first = shapes[0].packed
    layer = np.zeros((first.height, first.width), np.uint8)
    for value, shape in enumerate(shapes, 1):
        layer[shape.packed.mask()] = value
    return layer


def write_shard(path: Path, images: Iterable[tuple[str, str, Sequence[Object], tuple[int, int]]]) -> None:
    """Writes a shard in one step: it is there whole, or not.

    Args:
        path: The zip file.
        images: Key, file name, objects and (height, width) of each image; taken one at a time.

    Raises:
        DiskFullError: There is no room for it; nothing is left of it.
    """
    rows: list[dict[str, Any]] = []
    part = path.with_suffix(".part")
    with writing(path.parent, temporary=(part,)), zipfile.ZipFile(part, "w") as archive:
        for key, file, objects, (height, width) in images:
            layers, places = pack(o.packed for o in objects)
            for number, layer in enumerate(layers):
                done, data = cv2.imencode(".png", layer)
                assert done
                archive.writestr(f"{key}.{number}.png", data.tobytes())
            row: dict[str, Any] = {"key": key, "file": file, "height": height, "width": width, "layers": 0}
            row["layers"] = max((layer for layer, _ in places), default=-1) + 1
            row["objects"] = [[*place, o.parent, o.stuff] for place, o in zip(places, objects, strict=True)]
            rows.append(row)
        archive.writestr("index.jsonl", "\n".join(map(json.dumps, rows)))
    os.replace(part, path)
