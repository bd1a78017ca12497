"""Shared fixtures. Reference data beside the checkout is used where it is there; tests that need it skip where not."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that wait must not spin
os.environ["OMP_NUM_THREADS"] = os.environ["ICMFORMER_THREADS"] = "1"  # tests, and what they start, run side by side
if "ICMFORMER_CACHE_DIR" not in os.environ:  # what tests convert does not belong into the user's cache
    os.environ["ICMFORMER_CACHE_DIR"] = tempfile.mkdtemp(prefix="icmformer-tests-")
    atexit.register(shutil.rmtree, os.environ["ICMFORMER_CACHE_DIR"], ignore_errors=True)

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from icmformer import Engine

pytest_plugins = ["tests.budget"]
ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
TINY = "random:icmformer_vit_tiny224"
"""Untrained: quick to make, its masks are all or nothing. For tests of what surrounds the network."""
TRAINED = "starter"
"""The bundled weights, for tests in which masks and regions must move."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)  # commands set it for their process, which here goes on


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and data, ICMFORMER_SHARED or ../shared."""
    folder = Path(os.environ.get("ICMFORMER_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder


@pytest.fixture
def converted(tmp_path) -> Path:
    """A cache folder of its own for a server, in which the networks that this session converted are already there."""
    folder, kept = tmp_path / "cache", Path(os.environ["ICMFORMER_CACHE_DIR"], "openvino")
    for place in (folder, kept):
        place.mkdir(parents=True, exist_ok=True)
    (folder / "openvino").symlink_to(kept)
    return folder


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A real photo, 451 x 300 pixels."""
    return data.chelsea()


@pytest.fixture(scope="session")
def exact() -> Engine:
    from tests.engines import engine

    return engine("exact")


@pytest.fixture(scope="session")
def fast() -> Engine:
    from tests.engines import engine

    return engine("fast")
