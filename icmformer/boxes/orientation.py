"""Boxes and masks on an image as it is stored, where its EXIF orientation says that it is to be shown otherwise."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image

from icmformer.images.reading import FORMATS
from icmformer.types import BoolMask, Box

Orientation = Literal["upright", "stored"]
"""As an image's EXIF orientation says it is shown, or as its file has it."""

_TAG = 0x0112
_BACK: Mapping[int, Callable[[Any], Any]] = {  # from upright to stored, by EXIF orientation
    2: np.fliplr,
    3: lambda mask: np.rot90(mask, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda mask: np.rot90(mask, 1),
    7: lambda mask: np.rot90(mask.T, 2),
    8: lambda mask: np.rot90(mask, -1),
}


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image file that can be opened, 2 to 8; 1 where nothing is to be turned."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            tag = image.getexif().get(_TAG, 1)
    except Exception:  # damaged EXIF data make Pillow raise nearly anything; reading then turns nothing either
        return 1
    return tag if tag in _BACK else 1


def turns(tag: int) -> bool:
    """Whether an orientation swaps width and height."""
    return tag >= 5


def upright_box(box: Box, tag: int, height: int, width: int) -> Box:
    """A box on the stored image of `height` x `width` pixels, on the upright one."""
    corners = [_upright(x, y, tag, height, width) for x, y in ((box.x1, box.y1), (box.x2, box.y2))]
    return Box(*corners[0], *corners[1])


def _upright(x: float, y: float, tag: int, height: int, width: int) -> tuple[float, float]:
    return {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }[tag]


def stored_mask(mask: BoolMask, tag: int) -> BoolMask:
    """An upright (H, W) bool mask on the stored image."""
    return _BACK[tag](mask) if tag in _BACK else mask
