"""What engines keep: whose prediction is served, how often a photo is encoded, and whether it fits."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from skimage import data

from icmformer import Box, Caches, Click, Engine, LoadedImage, weights
from icmformer.errors import ConfigError
from icmformer.inference.cache import ByteLRU
from icmformer.inference.profiles import PROFILES
from tests.conftest import TINY
from tests.engines import engine

CAT = data.chelsea()
BOX = Box(100, 60, 300, 240)
MIDDLE, OFF = Click(200.5, 150.5), Click(150.5, 100.5, False)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("profile", ["exact", "fast"])
@pytest.mark.parametrize("first", ["by hand", "by the box"])
def test_a_click_in_the_middle_of_the_box_is_not_the_boxs_own(profile, ordered, first):
    prompts = {"by hand": [MIDDLE, OFF], "by the box": [OFF]}
    (second,) = prompts.keys() - {first}
    warm = engine(profile)
    warm.segment(CAT, prompts[first], BOX, ordered=ordered)
    cold = engine(profile, Caches())
    for name in (second, first):
        expected = cold.segment(CAT, prompts[name], BOX, ordered=ordered)
        assert np.array_equal(warm.segment(CAT, prompts[name], BOX, ordered=ordered).probability, expected.probability)


class Together(ByteLRU):
    """A cache whose first readers all see it empty: they wait for each other."""

    def __init__(self, capacity, readers):
        super().__init__(capacity)
        self.barrier = threading.Barrier(readers)

    def get(self, key):
        found = super().get(key)
        self.barrier.wait(20)
        return found


def test_a_photo_that_several_ask_for_at_once_is_encoded_once(monkeypatch):
    fast = engine("fast", Caches(features=Together(1 << 26, 6)))
    encoded, backend = [], fast.backend
    right = backend.encode
    monkeypatch.setattr(backend, "encode", lambda image: (encoded.append(1), right(image))[1])
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: fast.predictor.prefetch(LoadedImage.from_array(CAT)), range(6)))
    assert len(encoded) == 1
    assert all(one is found[0] for one in found)
    stats = fast.caches.features.stats()
    assert (stats.hits, stats.misses) == (0, 6)


def test_features_as_large_as_the_cache_are_kept_and_those_a_byte_larger_are_not():
    click = [Click(170.5, 120.5)]
    size = engine("fast")
    size.segment(CAT, click)
    entry = size.caches.features.stats().nbytes // size.caches.features.stats().entries
    for capacity, entries in ((entry, 1), (entry - 1, 0)):
        fast = engine("fast", Caches(features=ByteLRU(capacity)))
        expected = fast.segment(CAT, click)
        again = fast.segment(CAT, click)
        assert fast.caches.features.stats().entries == entries
        assert ("encode" in again.timings) == (not entries)
        assert np.array_equal(again.probability, expected.probability)


def test_a_cache_too_small_for_the_network_is_told_at_start(caplog):
    with caplog.at_level(logging.WARNING, "icmformer"):
        engine("fast").warm_up()
        assert not caplog.records
        engine(caches=Caches(features=ByteLRU(1 << 20))).warm_up()
    (record,) = caplog.records
    assert "ICMFORMER_FEATURE_CACHE_MB" in record.getMessage()


def test_engines_side_by_side_share_the_network_and_nothing_else():
    click = [Click(170.5, 120.5)]
    first = engine(caches=Caches(ByteLRU(1 << 26), ByteLRU(1 << 26)))
    alone = Engine(first.weights, "cpu", "exact", Caches()).segment(CAT, click)
    other = first.beside(Caches(ByteLRU(1 << 26)), replace(PROFILES["exact"], flip=False))
    assert other.backend is first.backend
    assert first.segment(CAT, click) == first.beside(Caches()).segment(CAT, click) == alone
    assert not np.array_equal(other.segment(CAT, click).probability, alone.probability)
    assert first.segment(CAT, click) == alone
    assert other.caches.features.stats().misses
    assert first.beside().caches.features.stats().entries == 0


def test_what_another_engine_cannot_share_is_refused():
    first = engine()
    with pytest.raises(ConfigError, match="precision"):
        first.beside(profile="fast")
    with pytest.raises(ConfigError, match="another network"):
        first.beside(weights=weights.load(TINY))
    with pytest.raises(ConfigError, match="another network"):
        first.beside(weights=replace(first.weights, sha256="0" * 64))
