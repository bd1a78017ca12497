"""Several requests in one pass, and compiled networks: the same replies."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from skimage import data

from icmformer import Caches, Click, Engine
from icmformer.errors import DeviceMemoryError
from icmformer.inference.backends.base import Backend
from icmformer.inference.backends.batching import BatchingBackend
from icmformer.inference.backends.torch import Precision, TorchBackend
from icmformer.models import ClickNetwork, ImageFeatures
from icmformer.serving.errors import status_of
from icmformer.timings import Timings
from icmformer.weights import load
from tests.engines import MINIATURE

CAT = data.chelsea()
CLICKS = [[Click(60 + 40 * n, 40 + 25 * n), Click(400 - 40 * n, 250, n % 2 == 0)] for n in range(6)]


def prompt(seed, count, batch=1, side=64):
    random = torch.Generator().manual_seed(seed)
    points = torch.full((batch, 2 * count, 3), -1.0)
    points[:, :, :2] = torch.rand(batch, 2 * count, 2, generator=random) * side
    points[:, :, 2] = torch.arange(2 * count)
    return torch.rand(batch, 1, side, side, generator=random), points


class Counting(Backend):
    """A backend whose pass is one multiplication, and takes its time."""

    identity = "counting"

    def __init__(self):
        self.lock, self.passes = threading.Lock(), []

    def encode(self, image):
        raise NotImplementedError

    def decode(self, features, prev_mask, points):
        time.sleep(0.05)
        self.passes.append(len(prev_mask))
        if bool((points == 7).any()):
            raise RuntimeError("out of memory")
        seen = (points[..., 0] >= 0).sum(1).view(-1, 1, 1, 1)
        return prev_mask * features.tensors[0].view(-1, 1, 1, 1) + seen


class Heard(Timings):
    """Timings that count who begins to wait."""

    waiting = 0

    def stage(self, name):
        self.waiting += name == "wait"
        return super().stage(name)


def ask(backend, number, points=1, side=8, timings=None):
    features = ImageFeatures((side, side), (torch.tensor([float(number)]),))
    marks = torch.cat([torch.full((1, points, 3), 5.0), torch.full((1, points, 3), -1.0)], dim=1)
    return backend.decode_in_turn(
        features, torch.ones(1, 1, side, side), marks, Timings() if timings is None else timings
    )


def test_requests_that_come_while_the_device_is_busy_share_the_next_pass():
    backend = Counting()
    shared = BatchingBackend(backend, 4)
    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(lambda n: ask(shared, n, points=1 + n % 3), range(9)))
    assert [float(x[0, 0, 0, 0]) for x in found] == [n + 1 + n % 3 for n in range(9)]
    assert set(backend.passes) == {4}, "every pass has the same shape"
    assert len(backend.passes) < 9


def test_other_shapes_do_not_share_a_pass():
    backend = Counting()
    shared = BatchingBackend(backend, 4)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: ask(shared, n, side=8 * (1 + n % 2)), range(6)))
    assert [x.shape[-1] for x in found] == [8, 16] * 3


def test_who_shares_a_failed_pass_is_told_and_the_next_ones_are_served():
    backend = Counting()
    shared = BatchingBackend(backend, 4)
    features = ImageFeatures((8, 8), (torch.tensor([1.0]),))
    heard = [Heard() for _ in range(3)]

    def bad():
        return shared.decode_in_turn(features, torch.ones(1, 1, 8, 8), torch.full((1, 2, 3), 7.0), heard[0])

    with ThreadPoolExecutor(3) as pool:
        with shared.lock:  # the device is busy until all three wait
            asked = [pool.submit(bad), *(pool.submit(ask, shared, n, timings=heard[n - 1]) for n in (2, 3))]
            while sum(timings.waiting for timings in heard) < 3:
                time.sleep(0.01)
        errors = [one.exception(10) for one in asked]
    assert all(isinstance(error, RuntimeError) and "out of memory" in str(error) for error in errors)
    assert len({id(error) for error in errors}) == 3, "each has an error of its own"
    assert backend.passes == [4]
    assert float(ask(shared, 3)[0, 0, 0, 0]) == 4


class Greedy(ClickNetwork):
    """A network that asks for more memory than there is, as torch says it on a GPU."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def check_size(self, height, width):
        pass

    def encode_image(self, image):
        return ImageFeatures((image.shape[2], image.shape[3]), (image,))

    def decode_map(self, features, prompt):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.91 GiB of which 1.06 GiB "
            "is free. Including non-PyTorch memory, this process has 6.8 GiB memory in use."
        )


def test_a_full_device_is_told_to_everyone_in_the_pass():
    shared = BatchingBackend(TorchBackend(Greedy(), torch.device("cpu"), Precision()), 4)
    features = shared.encode(torch.rand(1, 3, 64, 64))
    heard = [Heard() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        with shared.lock:
            asked = [pool.submit(shared.decode_in_turn, features, *prompt(0, 2), one) for one in heard]
            while sum(timings.waiting for timings in heard) < 3:
                time.sleep(0.01)
        errors = [one.exception(10) for one in asked]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, DeviceMemoryError)
        assert error.__context__ is None, "the first error would keep what the pass had allocated"
        assert str(error).startswith("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")
        assert str(error).endswith("lower ICMFORMER_BATCH or ICMFORMER_FEATURE_CACHE_MB")
        assert "non-PyTorch" not in str(error)
        assert status_of(error) == (503, "out of memory")


@pytest.mark.parametrize(("profile", "clients"), [("exact", CLICKS[:4]), ("fast", CLICKS)])
def test_a_reply_does_not_depend_on_who_else_clicks(profile, clients, monkeypatch):
    monkeypatch.setenv("ICMFORMER_BATCH", "4")
    alone = Engine.from_weights("starter", profile=profile, caches=Caches(), runtime="torch")
    assert alone.backend.batch == 4
    right = [alone.segment(CAT, clicks) for clicks in clients]
    together = Engine.from_weights("starter", profile=profile, runtime="torch")
    with ThreadPoolExecutor(len(clients)) as pool:
        found = list(pool.map(lambda clicks: together.segment(CAT, clicks), clients))
    for one, other in zip(found, right, strict=True):
        assert np.array_equal(one.probability, other.probability)
        assert one.score == other.score


def test_filled_passes_give_the_logits_of_single_ones():
    network = load("random:icmformer_vit_tiny224").build()
    cpu = torch.device("cpu")
    single = TorchBackend(network, cpu, Precision())
    filled = BatchingBackend(single, 4)
    features = single.encode(torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    given = prompt(1, 2, batch=2, side=224)
    one, other = (backend.decode(features, *given) for backend in (single, filled))
    assert one.shape == other.shape == (2, 1, 224, 224)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


PROGRAM = (
    f"MINIATURE = {MINIATURE}\n"
    + """
import numpy as np, torch
from concurrent.futures import ThreadPoolExecutor
from icmformer.inference.backends.torch import Precision, TorchBackend
from icmformer.models import build_network
torch.manual_seed(0)
network = build_network(MINIATURE).eval()
cpu = torch.device("cpu")
plain, compiled = TorchBackend(network, cpu, Precision()), TorchBackend(network, cpu, Precision(), compiled=True)
image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
points = torch.tensor([[[30.0, 40, 0], [-1, -1, -1]]])
def both(backend):
    return backend.decode(backend.encode(image), torch.zeros(1, 1, 224, 224), points)
with ThreadPoolExecutor(3) as pool:
    found = [f.result() for f in [pool.submit(both, compiled) for _ in range(3)]]
right = both(plain)
assert all(torch.equal(found[0], other) for other in found)
print(float((found[0] - right).abs().max()), float(right.abs().max()))
"""
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs with g++")
def test_a_compiled_network_gives_the_same_logits_from_any_thread(tmp_path):
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    difference, size = map(float, done.stdout.split())
    assert difference < 1e-4 < size


@pytest.mark.slow
def test_without_a_compiler_it_is_said_what_is_missing(tmp_path):
    program = (
        PROGRAM.partition("with Thread")[0]
        + """
from icmformer.errors import ConfigError
try:
    both(compiled)
except ConfigError as error:
    print(error)
"""
    )
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "CXX": "/nowhere/g++"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert "C++ compiler" in done.stdout, done.stderr[-1500:]
