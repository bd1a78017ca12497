"""Backends on a GPU: uploads, shared passes, features kept in its memory, and what happens when that is full."""

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch

from icmformer import Caches, Click, LoadedImage
from icmformer.errors import DeviceMemoryError
from icmformer.inference.backends.batching import BatchingBackend
from icmformer.inference.backends.torch import Precision, TorchBackend
from icmformer.inference.cache import ByteLRU
from icmformer.inference.profiles import PROFILES
from icmformer.timings import Timings
from tests.gpu.conftest import CLICKS, FP32, engine_on, held, picture, prompt, span, starter

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(60)]
CLIENTS = [[Click(60 + 40 * n, 40 + 25 * n), Click(400 - 40 * n, 250, n % 2 == 0)] for n in range(6)]


@pytest.fixture(scope="module")
def backend(device):
    return TorchBackend(starter().build().to(device), device, Precision())


def test_an_upload_is_not_changed_by_what_happens_to_its_source(backend):
    """It may still be on its way when the caller goes on: what travels is a copy."""
    random = torch.Generator().manual_seed(0)
    sent, right = [], []
    for _ in range(20):
        source = torch.rand(2, 3, 256, 512, generator=random)
        right.append(source.clone())
        sent.append(backend._upload(source) if backend._device.type == "cuda" else backend._upload(source).clone())
        source.zero_()
    assert all(torch.equal(there.cpu(), here) for there, here in zip(sent, right, strict=True))


@pytest.mark.parametrize("profile", list(PROFILES))
def test_a_reply_does_not_depend_on_who_else_clicks(device, photo, profile):
    """A pass has the same shape whoever is in it: where in it a request stands must not move its bits either."""
    alone = engine_on(device, profile, batch=4)
    assert alone.backend.batch == 4
    right = [alone.segment(photo, clicks) for clicks in CLIENTS]
    together = alone.beside(Caches(ByteLRU(1 << 28), ByteLRU(1 << 28)))
    for _ in range(3):
        with ThreadPoolExecutor(len(CLIENTS)) as pool:
            found = list(pool.map(lambda clicks: together.segment(photo, clicks), CLIENTS))
        differences = [np.abs(a.probability - b.probability).max() for a, b in zip(found, right, strict=True)]
        assert not any(differences), differences
        assert found == right


def test_filled_passes_give_the_logits_of_single_ones(backend):
    """Not the same bits: a larger product may be added up in another order."""
    filled = BatchingBackend(backend, 4)
    features = backend.encode(picture(320))
    given = [prompt(320, count=2 + n, seed=n) for n in range(3)]
    right = [backend.decode(features, *one) for one in given]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: filled.decode_in_turn(features, *one, Timings()), given))
    for one, other in zip(found, right, strict=True):
        assert float((one - other).abs().max()) < FP32 * span(other)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_features_stay_on_the_device_within_their_limit(device, photo, profile):
    small = np.ascontiguousarray(photo[::2, ::2])
    features = engine_on(device, profile).predictor.prefetch(LoadedImage.from_array(small))
    assert {tensor.device.type for tensor in features.tensors} == {device.type}
    engine = engine_on(device, profile, Caches(ByteLRU(4 * features.nbytes + 1000), ByteLRU(1 << 20)))
    after = []
    gc.collect()  # what other tests have left
    for number in range(50):
        engine.segment(np.roll(small, number, axis=1), CLICKS[3:])
        after.append(held(device))
        stats = engine.caches.features.stats()
        assert stats.nbytes <= 4 * features.nbytes + 1000
    assert stats.entries == 4
    assert stats.evictions >= 46
    assert max(after[10:]) <= max(after[:10]) + (1 << 20), after


def test_what_a_cache_counts_is_what_the_device_holds(cuda, photo):
    engine = engine_on(cuda, "fast", Caches(ByteLRU(1 << 40)))
    engine.segment(photo, CLICKS)  # whatever is made once
    gc.collect()
    before, counted = held(cuda), engine.caches.features.stats().nbytes
    for number in range(1, 9):
        engine.prefetch(np.roll(photo, number, axis=1))
    more, counted = held(cuda) - before, engine.caches.features.stats().nbytes - counted
    assert counted > 1 << 20
    assert abs(more - counted) <= 0.01 * counted


@contextmanager
def full(device):
    """Leaves this process no memory of a GPU but what it holds, and fills the gaps in that."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0, torch.cuda.current_device())
    blocks = []
    try:
        for size in (8 << 20, (1 << 20) + 512, 1 << 16, 512):  # up to 1 MiB is the allocator's other pool
            with suppress(torch.OutOfMemoryError):
                while True:
                    blocks.append(torch.empty(size, dtype=torch.uint8, device=device))
        yield
    finally:
        blocks.clear()
        torch.cuda.set_per_process_memory_fraction(1.0, torch.cuda.current_device())


@pytest.mark.parametrize("batch", [1, 4])
def test_a_full_gpu_is_said_and_the_next_request_served(cuda, photo, batch):
    engine = engine_on(cuda, batch=batch)
    right = engine.segment(photo, CLICKS)
    gc.collect()
    before = held(cuda)
    with full(cuda):
        with pytest.raises(DeviceMemoryError, match="nvidia-smi"):
            engine.segment(photo, CLICKS)
        with pytest.raises(DeviceMemoryError, match="out of memory"):
            engine_on(cuda)
    gc.collect()  # the errors and what their frames hold
    assert held(cuda) <= before + (1 << 20)
    assert engine.segment(photo, CLICKS) == right
