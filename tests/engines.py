"""Engines on networks that a session of tests loads and compiles once."""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

from icmformer import Engine, weights
from icmformer.inference.profiles import find_device, find_profile, find_runtime
from icmformer.settings import Settings
from tests.conftest import TRAINED

MINIATURE = {
    "family": "icmformer-vit",
    "img_size": 224,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "neck_out_dims": [8, 8, 8, 8],
    "head_channels": 8,
    "published_extras": False,
}
"""A plain ViT so small that a click takes milliseconds: for tests of what surrounds the network."""
SETTINGS = Settings(cache_dir=Path(os.environ["ICMFORMER_CACHE_DIR"]))
"""The session's, whatever the test that asks first has made of the environment."""


@cache
def _first(name, low_precision, runtime):
    profile = "fast" if low_precision else "exact"
    return Engine(weights.load(name), "cpu", profile, runtime=runtime, settings=SETTINGS)


def engine(profile="exact", caches=None, runtime="auto", of=TRAINED, **served):
    """A new engine, with caches of its own.

    `served` are fields of its weights' `ServingDefaults`.
    """
    profile = find_profile(profile)
    first = _first(of, profile.low_precision, find_runtime(runtime, find_device("cpu")))
    return first.beside(caches, profile, replace(first.weights, serving=replace(first.weights.serving, **served)))


def in_precision(precision, of="starter"):
    """An engine of its own with OpenVINO, `fast`, of weights or their name, that computes in a precision."""
    settings = replace(SETTINGS, precision=precision)
    of = weights.load(of) if isinstance(of, str) else of
    return Engine(of, "cpu", "fast", runtime="openvino", settings=settings)
