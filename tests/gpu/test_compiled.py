"""Compiled networks, on a GPU as CUDA graphs: the replies of those that are not, from any thread.

Compiling takes most of the time: a few seconds for each half of a network.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from icmformer import Caches, LoadedImage
from icmformer.inference.backends.torch import Precision, TorchBackend
from icmformer.inference.cache import ByteLRU
from icmformer.models import build_network
from tests.engines import MINIATURE
from tests.gpu.conftest import CLICKS, FP32, engine_on, iou, picture, prompt, span

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def backends(device):
    """The smallest network, as it is and compiled."""
    torch.manual_seed(0)
    network = build_network(MINIATURE).eval().to(device)
    return [TorchBackend(network, device, Precision(), compiled=compiled) for compiled in (False, True)]


def test_logits_are_those_of_the_network_from_any_thread(backends):
    """Both in fp32; the compiler adds up in another order. Each thread asks often: graphs are replayed from the third
    pass on."""
    asked = [(picture(224, seed=n), prompt(224, count=2 + n, seed=n)) for n in range(4)]

    def both(backend, number):
        image, given = asked[number % 4]
        with backend.lock:
            return backend.decode(backend.encode(image), *given)

    right = [both(backends[0], number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: both(backends[1], number), range(24)))
    for number, logits in enumerate(found):
        assert torch.equal(logits, found[number % 4]), "another pass of the same request gives other bits"
        assert float((logits - right[number % 4]).abs().max()) < FP32 * span(right[number % 4])
    assert len({float(logits.sum()) for logits in right}) == 4


def test_features_outlive_the_passes_after_them(backends):
    """A CUDA graph writes into the same memory each time; features are kept between clicks."""
    compiled = backends[1]
    first = compiled.encode(picture(224, seed=0))
    given = prompt(224)
    copies, logits = [t.cpu().clone() for t in first.tensors], compiled.decode(first, *given)
    for seed in range(1, 6):
        other = compiled.encode(picture(224, seed=seed))
        compiled.decode(other, *prompt(224, seed=seed))
    assert all(torch.equal(now.cpu(), then) for now, then in zip(first.tensors, copies, strict=True))
    assert torch.equal(compiled.decode(first, *given), logits)
    assert not torch.equal(other.tensors[0].cpu(), copies[0])


def test_cuda_graphs_are_replayed(cuda, backends, monkeypatch):
    replayed = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replayed.append(graph) or replay(graph))
    for _ in range(4):
        backends[1].decode(backends[1].encode(picture(224)), *prompt(224))
    assert len(replayed) >= 4, "torch compiled the network without CUDA graphs"


def test_the_engine_replies_as_without_icmformer_compile(device, cat):
    """`fast`, as it is served: in bf16, in which the compiler rounds less often."""
    plain, compiled = (
        engine_on(device, "fast", Caches(ByteLRU(1 << 28)), compile=compiled) for compiled in (False, True)
    )
    photos = [LoadedImage.from_array(np.roll(cat, 30 * n, axis=1)) for n in range(3)]
    asked = [(n, count) for n in range(3) for count in (1, 3)]
    right = {(n, count): plain.segment(photos[n], CLICKS[:count]) for n, count in asked}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda key: (key, compiled.segment(photos[key[0]], CLICKS[: key[1]])), 3 * asked))
    first = dict(found[: len(asked)])
    assert [key for key, reply in found if reply != first[key]] == [], "other bits at another time"
    assert {key: same for key in asked if (same := iou(right[key].mask, first[key].mask)) < 0.97} == {}
