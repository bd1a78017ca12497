"""The engine on a GPU: the CPU's replies, and the same bits for the same request."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from icmformer import Box, Caches, LoadedImage
from icmformer.inference.cache import ByteLRU
from icmformer.inference.profiles import PROFILES
from tests.gpu.conftest import CLICKS, CPU, engine_on, iou

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(60)]
BEFORE = np.zeros((300, 451), bool)
BEFORE[60:220, 120:330] = True
REQUESTS = {
    "one click, and the refinement pass": {"clicks": CLICKS[:1]},
    "clicks": {"clicks": CLICKS},
    "unordered clicks": {"clicks": CLICKS[::-1], "ordered": False},
    "a box": {"box": Box(150, 60, 330, 260)},
    "a box and clicks": {"box": Box(150, 60, 330, 260), "clicks": CLICKS[:2]},
    "a mask to correct": {"clicks": CLICKS[:2], "previous_mask": BEFORE},
}


@pytest.fixture(scope="module")
def exact(device):
    return engine_on(device)


@pytest.fixture(scope="module", params=list(PROFILES))
def either(request, device):
    """An engine of each profile, which keeps nothing."""
    return engine_on(device, request.param)


@pytest.fixture(scope="module")
def on_cpu():
    """Engines on the CPU in fp32 with the passes of each profile."""
    unflipped = dataclasses.replace(PROFILES["fast"], low_precision=False)
    first = engine_on(CPU)
    return {"exact": first, "fast": first.beside(Caches(), unflipped)}


@pytest.mark.parametrize("request_", REQUESTS)
def test_exact_gives_the_cpus_probabilities(exact, on_cpu, photo, request_):
    """Both compute in fp32, whose sums differ by their order: 1e-5 in the logits. TF32 would make it 1e-3 and more."""
    right, found = (engine.segment(photo, **REQUESTS[request_]) for engine in (on_cpu["exact"], exact))
    assert 0.002 < right.mask.mean() < 0.9
    assert found.roi == right.roi
    np.testing.assert_allclose(found.probability, right.probability, rtol=0, atol=1e-4)
    assert found.score == pytest.approx(right.score, abs=1e-3)


@pytest.mark.parametrize("request_", REQUESTS)
def test_fast_gives_nearly_the_masks_of_fp32(device, on_cpu, cat, request_):
    """bf16 has eight bits, so logits are off by a hundredth of their range, a mask's edge by a pixel here and there.

    On a CPU with bf16, these masks have IoUs of 0.994 and more with those of fp32.
    """
    right = on_cpu["fast"].segment(cat, **REQUESTS[request_])
    found = engine_on(device, "fast").segment(cat, **REQUESTS[request_])
    assert iou(right.mask, found.mask) > 0.97
    assert found.score == pytest.approx(right.score, abs=0.02)


def test_the_same_request_gives_the_same_bits_after_any_others(either, photo):
    first = {name: either.segment(photo, **request) for name, request in REQUESTS.items()}
    either.segment(np.roll(photo, 50, axis=0), CLICKS)
    for name in reversed(REQUESTS):
        again = either.segment(photo, **REQUESTS[name])
        difference = np.abs(again.probability - first[name].probability).max()
        assert again == first[name], f"{name}: probabilities differ by up to {difference}"


def test_warm_and_cold_replies_are_the_same_bits(device, either, photo):
    warm = either.beside(Caches(ByteLRU(1 << 28), ByteLRU(1 << 28)))
    for count in (1, 2, 3, 4, 2):
        assert warm.segment(photo, CLICKS[:count]) == either.segment(photo, CLICKS[:count])
    assert warm.caches.features.stats().hits
    assert warm.caches.states.stats().hits


def test_two_engines_give_the_same_bits(device, either, photo):
    assert engine_on(device, either.profile).segment(photo, CLICKS) == either.segment(photo, CLICKS)


def test_eight_threads_get_the_single_callers_replies(either, photo):
    """Uploads go through pinned memory and are waited for by nobody: none may see another's values."""
    photos = [LoadedImage.from_array(np.roll(photo, 40 * n, axis=1)) for n in range(4)]
    asked = [(n, count) for n in range(4) for count in (1, 2, 3)]
    alone = {key: either.segment(photos[key[0]], CLICKS[: key[1]]) for key in asked}
    busy = either.beside(Caches(ByteLRU(12 << 20), ByteLRU(1 << 20)))  # small: features go while others use them
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: (key, busy.segment(photos[key[0]], CLICKS[: key[1]])), 3 * asked))
    assert [key for key, reply in found if reply != alone[key]] == []


def test_a_reply_leaves_nothing_running(cuda, either, photo):
    """So that the time of a click is that of its work, and not of its beginning."""
    for count in (1, 2):
        either.segment(photo, CLICKS[:count])
        assert torch.cuda.current_stream(cuda).query()


def test_a_caller_keeps_the_flags_that_a_pass_changes(either, photo, monkeypatch):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    expected = either.segment(photo, CLICKS[:2])
    for mine in (True, False):
        monkeypatch.setattr(matmul, "allow_tf32", mine)
        for name in ("allow_tf32", "deterministic", "benchmark"):
            monkeypatch.setattr(cudnn, name, mine)
        with torch.autocast(either.device.type, dtype=torch.bfloat16):
            assert either.segment(photo, CLICKS[:2]) == expected
        flags = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
        assert flags == (mine,) * 4
