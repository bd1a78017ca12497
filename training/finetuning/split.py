"""The two parts of a team's annotated images: one to train on, one held out to tell the gain."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from icmformer.errors import ConfigError
from icmformer.images.reading import read_image
from icmformer.weights.serving_defaults import MIN_CROP_SIZE
from training.finetuning.readers.annotated_image import AnnotatedImage


@dataclass(frozen=True)
class Split:
    """How many images and objects went where, the images' median long side in pixels, and what outlined nothing."""

    train_images: int
    train_objects: int
    held_images: int
    held_objects: int
    long_side: int
    skipped: str

    @property
    def min_crop_size(self) -> int:
        """Least side of a crop: a fifth of the images' side; the published 200 pixels suit images of 1,000."""
        return min(max(self.long_side // 5, 48), MIN_CROP_SIZE)


def prepare(images: Iterable[AnnotatedImage], out: Path, share: float) -> Split:
    """Writes the two parts as folders of `images/` and `masks/`: `out/train` and `out/held_out`.

    An image's part depends on its content and the other images': the same export is always split the same way.

    Args:
        images: One at a time, as they are read.
        out: Where the parts go.
        share: Of the images, that is held out.

    Raises:
        ConfigError: Fewer than two images, two of one name, or a map of another size than its image.
    """
    found: dict[str, tuple[bytes, int, int]] = {}  # name -> digest, objects, long side
    skipped: Counter[str] = Counter()
    every = out / "all"
    for image in tqdm(images, desc="preparing", unit="photo"):
        skipped.update(image.skipped)
        if not image.labels.any():
            continue
        if image.name in found:
            raise ConfigError(f"several photos are called {image.name}; give them different names")
        found[image.name] = _write(image, every)
    if len(found) < 2:
        raise ConfigError(
            f"{len(found)} annotated photos are too few: one part is for training, one for measuring the gain"
        )
    order = sorted(found, key=lambda name: found[name][0])
    held = set(order[: min(max(1, round(share * len(found))), len(found) - 1)])
    for name in found:
        part = out / ("held_out" if name in held else "train")
        for folder in ("images", "masks"):
            (part / folder).mkdir(parents=True, exist_ok=True)
            (every / folder / f"{name}.png").rename(part / folder / f"{name}.png")
    shutil.rmtree(every)
    held_objects, objects = (sum(found[name][1] for name in names) for names in (held, found))
    long_side = int(np.median([side for _, _, side in found.values()]))
    told = ", ".join(f"{number} x {kind}" for kind, number in sorted(skipped.items()))
    return Split(len(found) - len(held), objects - held_objects, len(held), held_objects, long_side, told)


def _write(image: AnnotatedImage, out: Path) -> tuple[bytes, int, int]:
    """Writes an image and its map of ids, as PNG; the image's digest, number of objects and long side."""
    pixels = read_image(image.file).pixels
    if pixels.shape[:2] != image.labels.shape:
        raise ConfigError(
            f"{image.file} has {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotation "
            f"{image.labels.shape[1]} x {image.labels.shape[0]}"
        )
    for folder, picture in (("images", pixels), ("masks", _never_only_255(image.labels))):
        (out / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(out / folder / f"{image.name}.png", compress_level=1)
    objects = len(set(np.unique(image.labels).tolist()) - {0, 255})
    return hashlib.sha256(image.file.read_bytes()).digest(), objects, max(pixels.shape[:2])


def _never_only_255(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A folder takes a map of 0 and 255 alone for one object; here it would be nothing but ignored."""
    if set(np.unique(labels).tolist()) <= {0, 255}:
        return np.zeros_like(labels)
    return labels
