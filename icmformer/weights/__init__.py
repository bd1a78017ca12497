"""Weights: the native form, published checkpoints, and where they are looked for.

The native form is a folder:

    config.json        {"format": 3, "name": ..., "network": {...}, "min_crop_size": 200, "refinement_pass": false,
                       "click_margin": 0, "score_sharpness": 1.0, "threshold": 0.49, "about": {...}}
    model.safetensors  the state dict, stored as `icmformer.weights.quantise` says: fp32, fp16 or int8
    SHA256SUMS         of both, as `sha256sum -c` reads it

Published `.pth` files of iCMFormer and SimpleClick load too, and checkpoints of other scripts that hold such a network,
without running anything in them. Nothing here uses the
network, but for `fetch`, which does only what it is told.
"""

from icmformer.weights.download import fetch
from icmformer.weights.search_path import (
    CONFIG_FILE,
    MODEL_FILE,
    RANDOM_PREFIX,
    SUMS_FILE,
    available,
    locate,
    search_path,
)
from icmformer.weights.serving_defaults import AS_PUBLISHED, MIN_CROP_SIZE, THRESHOLD, ServingDefaults
from icmformer.weights.store import FORMAT, Weights, WeightsWarning, load, save

__all__ = [
    "AS_PUBLISHED",
    "CONFIG_FILE",
    "FORMAT",
    "MIN_CROP_SIZE",
    "MODEL_FILE",
    "RANDOM_PREFIX",
    "SUMS_FILE",
    "THRESHOLD",
    "ServingDefaults",
    "Weights",
    "WeightsWarning",
    "available",
    "fetch",
    "load",
    "locate",
    "save",
    "search_path",
]
