"""The benchmarks in their published layouts, and any folder of image and mask pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.errors import ConfigError, IcmformerError, UnreadableImageError
from icmformer.images.reading import LoadedImage, read_image

from ..data.folders import files_in, image_pairs
from ..data.held_out import held_out
from ..data.records import ImageRecord
from ..data.sbd_voc import read_sbd, read_voc
from ..data.shards import Shard, open_shard
from ..simulated_annotator import IGNORE

Truth = NDArray[np.int32]


@dataclass(frozen=True)
class EvalObject:
    """One object to be segmented.

    Attributes:
        name: Unique within the data set.
        image: The image file.
        mask: The file its truth is in.
        kind: How that file is read.
        label: The object's id in the file, where it holds several.
        permissive: Whether the licence of the image is said to be permissive; only zip shards say so.
    """

    name: str
    image: Path
    mask: Path
    kind: str
    label: int = 1
    permissive: bool = False

    def load(self) -> tuple[LoadedImage, Truth]:
        """The image, and its truth as (H, W) int32: 1 object, 0 background, -1 ignored.

        Raises:
            ConfigError: A mask that cannot be read, or of another size than its image.
            ImageError: An image that cannot be read.
        """
        image = read_image(self.image)
        values = _read(self.kind, self.mask)
        truth = np.where(values == IGNORE, IGNORE, values == self.label).astype(np.int32)
        if truth.shape != image.pixels.shape[:2]:
            raise ConfigError(f"{self.image} and {self.mask} are of different sizes")
        return image, truth


@dataclass(frozen=True)
class ShardObject(EvalObject):
    """One object of a zip shard (`training.data.shards`), which `image` and `mask` are; `set` is its image's set."""

    index: int = 0
    set: str = ""

    def load(self) -> tuple[LoadedImage, Truth]:
        pixels, labels = open_shard(self.image, include_held_out=True).load(self.index)
        truth = np.where(labels == 255, IGNORE, labels == self.label).astype(np.int32)
        return LoadedImage.from_array(pixels), truth


@dataclass(frozen=True)
class MosaicObject(ShardObject):
    """One object of a zip shard whose image is one of nine in a square: small in a large picture."""

    def load(self) -> tuple[LoadedImage, Truth]:
        shard = open_shard(self.image, include_held_out=True)
        rng = np.random.default_rng(list(self.name.encode()))
        others = rng.integers(len(shard.records), size=9)
        place = int(rng.integers(9))
        images = [shard.load(self.index if n == place else int(other))[0] for n, other in enumerate(others)]
        tiles = [cv2.resize(image, (_TILE, _TILE), interpolation=cv2.INTER_AREA) for image in images]
        picture = np.vstack([np.hstack(tiles[row : row + 3]) for row in (0, 3, 6)])
        _, own = super().load()
        truth = np.zeros(picture.shape[:2], np.int32)
        row, column = (_TILE * n for n in divmod(place, 3))
        small = cv2.resize(own.astype(np.int16), (_TILE, _TILE), interpolation=cv2.INTER_NEAREST)
        truth[row : row + _TILE, column : column + _TILE] = small
        return LoadedImage.from_array(np.asarray(picture, np.uint8)), truth


_TILE = 280  # pixels
_LEAST_SHARE = 0.005
_MOST_OF_A_SET = 60


def _shard_objects(path: Path) -> Iterator[EvalObject]:
    """Objects of at least half a percent of their image, three an image at most; regions and parts are left out."""
    shard = open_shard(path, include_held_out=True)
    for index, record in enumerate(shard.records):
        yield from _objects_of(shard, index, record, _LEAST_SHARE)


def _objects_of(shard: Shard, index: int, record: ImageRecord, least: float) -> Iterator[ShardObject]:
    if record.segments or record.semantic_parts:
        return
    _, labels = shard.load(index)
    large = [label for label in record.labels if (labels == label).mean() >= least]
    for label in large[:3]:
        name = f"{record.set}_{record.key}_{label}"
        yield ShardObject(name, shard.path, shard.path, "labels", label, record.permissive, index, record.set)


def _mosaics(path: Path) -> Iterator[EvalObject]:
    """The objects of a shard, each image among eight others."""
    for item in _shard_objects(path):
        yield MosaicObject(**vars(item))


def _held_out_objects(root: Path) -> Iterator[EvalObject]:
    """Objects of the held-out images of a folder's shards, small ones too, 60 of each set at most.

    These are all of `val-*.zip`, and of the others what `held_out` names.
    """
    by_set: dict[str, list[EvalObject]] = {}
    for path in (p for p in files_in(root) if p.suffix == ".zip"):
        shard = open_shard(path, include_held_out=True)
        for index, record in enumerate(shard.records):
            if path.name.startswith("val-") or held_out(record.set, record.key):
                by_set.setdefault(record.set, []).extend(_objects_of(shard, index, record, _LEAST_SHARE / 5))
    for objects in by_set.values():
        yield from _spread(objects, _MOST_OF_A_SET)


def _spread(objects: list[EvalObject], limit: int) -> list[EvalObject]:
    """At most `limit` objects, spread evenly over the list."""
    if limit >= len(objects):
        return objects
    return [objects[i * len(objects) // limit] for i in range(limit)]


def _read(kind: str, path: Path) -> Truth:
    try:
        return _READERS[kind](path)
    except ConfigError:
        raise
    except Exception as error:  # scipy and OpenCV raise nearly anything
        raise ConfigError(f"{path} cannot be read as a mask: {error}") from error


def _read_gray(path: Path) -> NDArray[Any]:
    """The largest value of each pixel's channels, without alpha."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ConfigError(f"{path} cannot be read as a mask")
    return np.asarray(pixels if pixels.ndim == 2 else pixels[..., :3].max(axis=2))


def _trimap(path: Path) -> Truth:
    gray = _read_gray(path)
    return np.asarray(np.where(gray == 128, IGNORE, gray > 128), np.int32)


def _any_channel(path: Path) -> Truth:
    return np.asarray(_read_gray(path) > 0, np.int32)


def _label_map(path: Path) -> Truth:
    """Values of a gray image, indices of a palette image; 255 is ignored unless there is no other value but 0."""
    with Image.open(path) as image:
        ids = np.asarray(image)
    if ids.ndim != 2:
        raise ConfigError(f"{path} is in colour; a label map is a gray or palette image whose values are the ids")
    ids = ids.astype(np.int32)
    return ids if set(np.unique(ids).tolist()) <= {0, 255} else np.where(ids == 255, IGNORE, ids)


_READERS: Mapping[str, Callable[[Path], Truth]] = {
    "trimap": _trimap,
    "any": _any_channel,
    "labels": _label_map,
    "sbd": read_sbd,
    "voc": read_voc,
}


def _pairs(images: Path, masks: Path, kind: str) -> Iterator[EvalObject]:
    """One object an image."""
    for image, mask in image_pairs(images, masks):
        yield EvalObject(image.stem, image, mask, kind)


def _several(image: Path, mask: Path, kind: str) -> Iterator[EvalObject]:
    """One object an id."""
    for label in np.unique(_read(kind, mask)):
        if label > 0:
            yield EvalObject(f"{image.stem}_{label}", image, mask, kind, int(label))


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise ConfigError(f"there is no {file}; --root must be the data set's own folder")
    return [line.split()[0] for line in file.read_text().splitlines() if line.strip()]


def _sbd_objects(root: Path) -> Iterator[EvalObject]:
    for name in _names(root / "val.txt"):
        yield from _several(root / "img" / f"{name}.jpg", root / "inst" / f"{name}.mat", "sbd")


def _voc_objects(root: Path) -> Iterator[EvalObject]:
    for name in _names(root / "ImageSets" / "Segmentation" / "val.txt"):
        image, mask = root / "JPEGImages" / f"{name}.jpg", root / "SegmentationObject" / f"{name}.png"
        yield from _several(image, mask, "voc")


def _label_map_objects(root: Path) -> Iterator[EvalObject]:
    for pair in _pairs(root / "images", root / "masks", "labels"):
        yield from _several(pair.image, pair.mask, "labels")


BENCHMARKS: Mapping[str, Callable[[Path], Iterator[EvalObject]]] = {
    "GrabCut": lambda root: _pairs(root / "data_GT", root / "boundary_GT", "trimap"),
    "Berkeley": lambda root: _pairs(root / "images", root / "masks", "trimap"),
    "DAVIS": lambda root: _pairs(root / "img", root / "gt", "any"),
    "COCO_MVal": lambda root: _pairs(root / "img", root / "gt", "any"),
    "SBD": _sbd_objects,
    "PascalVOC": _voc_objects,
    "folder": lambda root: _pairs(root / "images", root / "masks", "any"),
    "label-maps": _label_map_objects,
    "shard": _shard_objects,
    "mosaic": _mosaics,
    "never-trained": _held_out_objects,
}
"""Name -> the objects below a root folder. `folder`: images/ and masks/, paired by name, nonzero is the object;
`label-maps`: the same with an object for each value but 0; `shard`: a zip shard of training images, named by --root;
`mosaic`: the same, each image as one of nine in a square of 840 pixels a side; `never-trained`: what a folder of such
shards has of held-out images."""


def load_benchmark(name: str, root: Path, limit: int | None = None, permissive: bool = False) -> list[EvalObject]:
    """Lists a benchmark's objects.

    Args:
        name: A key of `BENCHMARKS`.
        root: The data set's folder.
        limit: Take only so many, spread evenly over the set.
        permissive: Leave out images whose licence is not said to be permissive.

    Raises:
        ConfigError: An unknown name, a limit under 1, or files that are not where the layout wants them.
    """
    if limit is not None and limit < 1:
        raise ConfigError("--limit starts at 1")
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown data set {name!r}; there are {', '.join(BENCHMARKS)}")
    objects = list(BENCHMARKS[name](root))
    if not objects:
        raise ConfigError(f"no objects found in {root} for {name}")
    if permissive:
        objects = [item for item in objects if item.permissive]
        if not objects:
            raise ConfigError(f"of no image in {root} it is said that its licence is permissive")
    return objects if limit is None else _spread(objects, limit)


def readable_objects(shard: Path, limit: int) -> tuple[list[EvalObject], list[UnreadableImageError]]:
    """The objects of `load_benchmark("shard", ...)`, without the images that cannot be read, and those.

    Raises:
        ConfigError: A limit under 1, no shard, or no object in it that can be read.
    """
    if limit < 1:
        raise ConfigError("--limit starts at 1")
    opened = open_shard(shard, include_held_out=True)
    objects: list[EvalObject] = []
    unreadable: list[UnreadableImageError] = []
    for index, record in enumerate(opened.records):
        try:
            objects += _objects_of(opened, index, record, _LEAST_SHARE)
        except IcmformerError as error:
            unreadable.append(UnreadableImageError(f"{shard.name}: {record.set}_{record.key}", str(error)))
    if not objects:
        raise ConfigError(f"no objects found in {shard}" + (f": {unreadable[0]}" if unreadable else ""))
    return _spread(objects, limit), unreadable


def unreadable_object(item: EvalObject, error: IcmformerError) -> UnreadableImageError:
    """What is told of an object whose image cannot be read."""
    return UnreadableImageError(f"{item.image.name}: {item.name.rpartition('_')[0]}", str(error))
