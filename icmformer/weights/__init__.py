"""Weights: the native form, published checkpoints, and where they are looked for.

The native form is a folder:

    config.json        {"format": 3, "name": ..., "network": {...}, "min_crop_size": 200, "refinement_pass": false,
                       "click_margin": 0, "score_sharpness": 1.0, "threshold": 0.49, "close_up": null,
                       "about": {...}}
    model.safetensors  the state dict, stored as `icmformer.weights.quantise` says: fp32, fp16 or int8
    SHA256SUMS         of both, as `sha256sum -c` reads it

A store (`versions`) is a folder of such folders, one of which is current.

Published `.pth` files of iCMFormer and SimpleClick load too, and checkpoints of other scripts that hold such a network,
without running anything in them. Nothing here uses the
network, but for `fetch`, which does only what it is told.
"""

from icmformer.weights.download import fetch
from icmformer.weights.pointer import Pointer, is_store, version_of
from icmformer.weights.search_path import (
    CONFIG_FILE,
    MODEL_FILE,
    RANDOM_PREFIX,
    SUMS_FILE,
    available,
    locate,
    search_path,
)
from icmformer.weights.serving_defaults import AS_PUBLISHED, MIN_CROP_SIZE, THRESHOLD, CloseUp, ServingDefaults
from icmformer.weights.store import FORMAT, Weights, WeightsWarning, load, save
from icmformer.weights.versions import NONE_YET, CurrentChangedError, Version, VersionStore, open_store, store_of

__all__ = [
    "AS_PUBLISHED",
    "CONFIG_FILE",
    "FORMAT",
    "MIN_CROP_SIZE",
    "MODEL_FILE",
    "NONE_YET",
    "RANDOM_PREFIX",
    "SUMS_FILE",
    "THRESHOLD",
    "CloseUp",
    "CurrentChangedError",
    "Pointer",
    "ServingDefaults",
    "Version",
    "VersionStore",
    "Weights",
    "WeightsWarning",
    "available",
    "fetch",
    "is_store",
    "load",
    "locate",
    "open_store",
    "save",
    "search_path",
    "store_of",
    "version_of",
]
