"""Engines on networks that a session of tests loads and compiles once."""

from dataclasses import replace
from functools import cache

from icmformer import Engine, weights
from icmformer.inference.profiles import find_profile
from tests.conftest import TRAINED


@cache
def load(name=TRAINED):
    """Weights by name, read once."""
    return weights.load(name)


@cache
def _backend(name, low_precision, runtime):
    return Engine(load(name), profile="fast" if low_precision else "exact", runtime=runtime).backend


def engine(profile="exact", caches=None, runtime="auto", of=TRAINED, **changes):
    """A new engine, with caches of its own.

    `changes` are fields of its weights that leave the network as it is: how it is served.
    """
    profile = find_profile(profile)
    served = replace(load(of), **changes) if changes else load(of)
    return Engine(served, "cpu", profile, caches, runtime, backend=_backend(of, profile.low_precision, runtime))
