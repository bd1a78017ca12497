"""COCO's segmentations: polygons, and run lengths packed or plain."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as rle

from icmformer.errors import ConfigError
from icmformer.types import BoolMask


def decode(segmentation: Any, height: int, width: int) -> BoolMask:
    """The (H, W) bool mask of a segmentation.

    Raises:
        ConfigError: It is of another form, or of another size.
    """
    try:
        if isinstance(segmentation, list):
            whole = [p for p in segmentation if not isinstance(p, list) or len(p) >= 6]
            coded = rle.merge(rle.frPyObjects(whole, height, width))
        elif isinstance(segmentation["counts"], list):
            coded = rle.frPyObjects(segmentation, height, width)
        else:
            coded = segmentation
        mask: BoolMask = np.asarray(rle.decode(coded), bool)
    except Exception as error:  # pycocotools raises nearly anything
        raise ConfigError(f"a segmentation is neither polygons nor run lengths: {error}") from error
    if mask.shape != (height, width):
        raise ConfigError(f"a segmentation is of {mask.shape} rows and columns, its image of ({height}, {width})")
    return mask
