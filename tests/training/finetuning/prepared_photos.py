"""Photos as `prepare_photos` leaves them, made without an export."""

import hashlib

import numpy as np
from PIL import Image

from training.finetuning.photos import ObjectFacts, PreparedPhoto


def write_photos(folder, names, pictures=None, groups=None, seed=0):
    """Photos of these identities, of noise where no pictures are given, each with one object."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    photos = []
    for place, name in enumerate(names):
        pixels = pictures[place] if pictures is not None else rng.integers(0, 256, (24, 32, 3), np.uint8)
        height, width = pixels.shape[:2]
        labels = np.zeros((height, width), np.uint8)
        labels[: height // 2] = 1
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        group = groups[place] if groups else ""
        photo = PreparedPhoto(place + 1, name, group, digest, height, width, (ObjectFacts(1),))
        Image.fromarray(pixels).save(folder / "images" / f"{photo.stem}.png", compress_level=0)
        Image.fromarray(labels).save(folder / "masks" / f"{photo.stem}.png")
        photos.append(photo)
    return photos
