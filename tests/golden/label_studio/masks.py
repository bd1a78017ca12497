"""Masks of many kinds, each a function of its number; needs numpy alone, so that it runs beside Label Studio's SDK too.

`python masks.py` in an environment with `label-studio-sdk` writes rle.json: what the SDK makes of each mask.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

COUNT = 330


def mask(number: int) -> np.ndarray:
    """Mask `number`, (H, W) bool."""
    rng = np.random.default_rng(number)
    height, width = (int(v) for v in rng.integers(1, 120, 2))
    kind = number % 11
    if kind == 0:
        return np.zeros((height, width), bool)
    if kind == 1:
        return np.ones((height, width), bool)
    if kind == 2:
        return rng.random((height, 1)) < 0.5
    if kind == 3:
        return rng.random((1, width)) < 0.5
    if kind == 4:  # longer runs than 16 bits can say
        large = np.zeros((300, 400), bool)
        large[int(rng.integers(200)) :] = True
        return large
    if kind == 5:  # runs at the borders of the sizes: 2, 4, 64 and 16384 pixels, one less and one more
        lengths = rng.choice([1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385], 12)
        flat = np.repeat(np.arange(12) % 2 == 0, lengths)
        return flat[None, :]
    if kind == 6:
        rows, columns = np.mgrid[:height, :width]
        return (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    return rng.random((height, width)) < rng.random()


def digest(encoded: list[int]) -> str:
    """A short name for a list of bytes."""
    return hashlib.sha256(bytes(encoded)).hexdigest()[:16]


if __name__ == "__main__":
    from label_studio_sdk.converter import brush

    made = [digest(brush.mask2rle(mask(n).astype(np.uint8) * 255)) for n in range(COUNT)]
    Path(__file__).with_name("rle.json").write_text(json.dumps(made) + "\n")
