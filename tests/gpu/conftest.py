"""What the tests on a GPU share.

They run every path of the product on CUDA and compare it with the CPU's. Without a GPU they are skipped, or rehearsed
on the CPU where ICMFORMER_GPU_REHEARSAL=1: all but what CUDA alone has then runs, the CPU being compared with itself.
"""

import os
from functools import cache

import numpy as np
import pytest
import torch
from skimage import data

from icmformer import Caches, Click, Engine, weights
from icmformer.settings import Settings
from tests.conftest import TRAINED
from tests.training.conftest import shard_root

__all__ = ["shard_root"]  # a fixture
CPU = torch.device("cpu")
CLICKS = [Click(200.5, 120.5), Click(150.5, 200.5, positive=False), Click(260.5, 160.5), Click(90.5, 60.5)]
FP32 = 5e-5
"""How far fp32 logits of two devices may be apart, as a share of the logits' range.

Ten times what the order of additions makes of them on a CPU (4e-6 against float64), and a tenth of what TF32 makes of a
single product.
"""


def pytest_collection_modifyitems(items):
    """What is compiled comes last: where time is short, all else has run."""
    items.sort(key=lambda item: item.path.name.startswith("test_compiled"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU; in a rehearsal the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("ICMFORMER_GPU_REHEARSAL") != "1":
        pytest.skip("needs a CUDA device")
    return CPU


@pytest.fixture(scope="session")
def cuda(device) -> torch.device:
    """The GPU, for what has no counterpart on a CPU."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device: the rehearsal leaves it out")
    return device


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A rocket at dusk, 451 x 300 pixels: small in its photo, so that the ROI moves after the first click."""
    return np.ascontiguousarray(data.rocket()[110:410, 100:551])


@pytest.fixture(scope="session")
def cat() -> np.ndarray:
    """A photo of the same size, whose object's edges are clear: for masks computed in bf16."""
    return data.chelsea()


@cache
def starter() -> weights.Weights:
    """The bundled weights."""
    return weights.load(TRAINED)


def engine_on(device, profile="exact", caches=None, **settings) -> Engine:
    """An engine with the bundled weights on torch, which keeps nothing unless it is given caches."""
    return Engine(starter(), str(device), profile, caches or Caches(), "torch", Settings(**settings))


def span(logits) -> float:
    """The range of some logits."""
    return float(logits.max() - logits.min())


def iou(one, other) -> float:
    """Of two masks."""
    return float((one & other).sum() / (one | other).sum())


def held(device) -> int:
    """Bytes of the GPU's memory that live tensors asked for; what the allocator gave may be more."""
    return torch.cuda.memory_stats(device)["requested_bytes.all.current"] if device.type == "cuda" else 0


def prompt(side, batch=1, count=2, seed=0):
    """A previous mask (B, 1, side, side) and points (B, 2 count, 3): of each kind one less than there is room for."""
    random = torch.Generator().manual_seed(seed)
    points = torch.full((batch, 2 * count, 3), -1.0)
    for start in (0, count):
        used = slice(start, start + count - 1)
        points[:, used, :2] = torch.rand(batch, count - 1, 2, generator=random) * side
        points[:, used, 2] = torch.arange(count - 1.0)
    return torch.rand(batch, 1, side, side, generator=random), points


def picture(side, batch=1, seed=0):
    """(B, 3, side, side) random pixels."""
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
