"""The two parts of a team's annotated photos: one to train on, one set aside to tell the gain."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from icmformer.errors import ConfigError
from icmformer.images.reading import read_image
from icmformer.weights.serving_defaults import MIN_CROP_SIZE
from training.finetuning.readers.label_map import AnnotatedPhoto


@dataclasses.dataclass(frozen=True)
class Split:
    """How many photos and objects went where, and the photos' median long side in pixels."""

    train_photos: int
    train_objects: int
    held_photos: int
    held_objects: int
    long_side: int

    @property
    def min_crop_size(self) -> int:
        """Least side of a zoomed region: a fifth of the photos' side; the published 200 pixels suit photos of 1,000."""
        return min(max(self.long_side // 5, 48), MIN_CROP_SIZE)


def prepare(photos: Iterable[AnnotatedPhoto], out: Path, share: float) -> tuple[Split, Counter[str]]:
    """Writes the two parts as folders of `images/` and `masks/`: `out/train` and `out/held_out`.

    A photo's part depends on its content and the other photos': the same export is always split the same way.

    Args:
        photos: One at a time, as they are read.
        out: Where the parts go.
        share: Of the photos, that is set aside.

    Returns:
        What went where, and the annotations that outline nothing.

    Raises:
        ConfigError: Fewer than two photos, two of one name, or a map of another size than its photo.
    """
    found: dict[str, tuple[bytes, int, int]] = {}  # name -> digest, objects, long side
    skipped: Counter[str] = Counter()
    for photo in tqdm(photos, desc="preparing", unit="photo"):
        skipped.update(photo.skipped)
        if not photo.labels.any():
            continue
        if photo.name in found:
            raise ConfigError(f"several photos are called {photo.name}; give them names of their own")
        pixels = read_image(photo.image).pixels
        if pixels.shape[:2] != photo.labels.shape:
            raise ConfigError(
                f"{photo.image} has {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotation "
                f"{photo.labels.shape[1]} x {photo.labels.shape[0]}"
            )
        for folder, picture in (("images", pixels), ("masks", _never_only_255(photo.labels))):
            (out / "all" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(out / "all" / folder / f"{photo.name}.png", compress_level=1)
        objects = len(set(np.unique(photo.labels).tolist()) - {0, 255})
        found[photo.name] = hashlib.sha256(photo.image.read_bytes()).digest(), objects, max(pixels.shape[:2])
    if len(found) < 2:
        raise ConfigError(f"{len(found)} annotated photos are too few: one trains, the other tells the gain")
    order = sorted(found, key=lambda name: found[name][0])
    held = set(order[: min(max(1, round(share * len(found))), len(found) - 1)])
    counts = {True: [0, 0], False: [0, 0]}
    for name, (_, objects, _) in found.items():
        part = out / ("held_out" if name in held else "train")
        for folder in ("images", "masks"):
            (part / folder).mkdir(parents=True, exist_ok=True)
            (out / "all" / folder / f"{name}.png").rename(part / folder / f"{name}.png")
        counts[name in held][0] += 1
        counts[name in held][1] += objects
    shutil.rmtree(out / "all")
    return Split(*counts[False], *counts[True], int(np.median([side for _, _, side in found.values()]))), skipped


def _never_only_255(labels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A folder takes a map of 0 and 255 alone for one object; here it would be nothing but ignored."""
    if set(np.unique(labels).tolist()) <= {0, 255}:
        return np.zeros_like(labels)
    return labels
