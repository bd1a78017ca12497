"""A server follows the current version of its weights, between two requests, and mixes none with another."""

import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from icmformer import Click, Engine
from icmformer.errors import WeightsError
from icmformer.images.reading import LoadedImage
from icmformer.inference.cache import NullCache
from icmformer.inference.engine import Caches
from icmformer.serving.core import ServingCore, load_engine
from icmformer.serving.metrics import Metrics
from icmformer.serving.queue import RequestQueue
from icmformer.serving.version_watch import VersionWatch, starting_engine, watch_versions
from icmformer.settings import Settings
from icmformer.weights import load, save
from icmformer.weights.versions import VersionStore
from tests.conftest import TRAINED
from tests.engines import SETTINGS
from tests.serving.test_core import Asked, Plain

CLICKS = [
    (Click(225, 150),),
    (Click(225, 150), Click(400, 20, False)),
    (Click(120, 60),),
    (Click(120, 60), Click(90, 90)),
]


@dataclass
class Named(Plain):
    """Replies are the masks with the names of the models that made them."""

    def encode(self, request, result, model):
        return result.mask, model


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three versions whose masks differ: the starter, its weights shaken, and the starter served otherwise."""
    folder = tmp_path_factory.mktemp("store") / "weights"
    starter = load(TRAINED, SETTINGS)
    generator = torch.Generator().manual_seed(0)
    shaken = {
        name: value + 0.02 * value.std() * torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and value.numel() > 1
        else value
        for name, value in starter.state_dict.items()
    }
    made, store = tmp_path_factory.mktemp("made"), VersionStore(folder)
    for name, state, serving in (
        ("one", starter.state_dict, starter.serving),
        ("two", shaken, starter.serving),
        ("three", starter.state_dict, replace(starter.serving, threshold=0.8)),
    ):
        store.add(save(made / name, starter.config, state, name, {}, "fp32", serving), name)
    store.promote("one")
    return store


@pytest.fixture
def settings(store):
    store.promote("one")
    return replace(SETTINGS, weights=str(store.folder), runtime="torch")


@pytest.fixture
def core(settings, photo):
    engine = load_engine(settings)
    return ServingCore(engine, Named(photo), RequestQueue(1, 64, 60.0), metrics=Metrics(engine, NullCache()))


@pytest.fixture
def watch(core, settings, store):
    return VersionWatch(core, settings, store, 1)


@pytest.fixture(scope="module")
def cold(store, photo):
    """Each version's masks by an engine that keeps nothing, made from the version's own folder."""
    image = LoadedImage.from_array(photo)
    masks = {}
    for version in ("one", "two", "three"):
        engine = Engine(load(store.path(version), SETTINGS), "cpu", "fast", Caches(), "torch", SETTINGS)
        masks |= {(version, clicks): engine.segment(image, clicks).mask for clicks in CLICKS}
    assert len({mask.tobytes() for mask in masks.values()}) == len(masks)  # no two of them are alike
    return masks


def metric(core, name):
    return next(float(line.split()[-1]) for line in core.metrics.text().decode().splitlines() if line.startswith(name))


def test_under_load_every_mask_is_wholly_of_the_version_that_its_reply_names(core, watch, store, cold):
    stopping, seen = threading.Event(), []

    def annotate(number):
        turn = number
        while not stopping.is_set():
            clicks = CLICKS[turn % len(CLICKS)]
            outcome = core.respond(Asked(clicks, group=f"{number} {turn}"))
            turn += 1
            seen.append((outcome, clicks))

    with ThreadPoolExecutor(4) as annotators:
        working = [annotators.submit(annotate, number) for number in range(4)]
        for version in ("two", "three", "one", "three", "two"):
            store.promote(version)
            before = len(seen)
            assert watch.look()
            assert core.model == version
            while len(seen) < before + 12 and not any(task.done() for task in working):
                stopping.wait(0.01)
        stopping.set()
    for task in working:
        task.result()
    assert {outcome.kind for outcome, _ in seen} == {"mask"}
    for outcome, clicks in seen:
        mask, model = outcome.reply
        assert model == outcome.model
        assert np.array_equal(mask, cold[model, clicks])
    assert {outcome.model for outcome, _ in seen} == {"one", "two", "three"}
    assert metric(core, 'icmformer_switches_total{outcome="switched"}') == 5


def test_a_version_that_is_damaged_is_refused_once_and_taken_once_it_is_whole(core, watch, store, cold, caplog):
    whole = (store.path("two") / "model.safetensors").read_bytes()
    (store.path("two") / "model.safetensors").write_bytes(whole[:-100])
    try:
        store.promote("one")
        pointer = store.folder / "current"
        pointer.write_text(pointer.read_text().replace('"version": "one"', '"version": "two"'))  # by hand, unchecked
        with caplog.at_level(logging.INFO, "icmformer.serving"):
            assert not watch.look()
            assert not watch.look()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "one goes on answering" in caplog.text
        assert "sha256" in caplog.text
        assert core.respond(Asked(CLICKS[0])).model == "one"
        assert metric(core, 'icmformer_switches_total{outcome="refused"}') == 1
    finally:
        (store.path("two") / "model.safetensors").write_bytes(whole)
    watch._refused = (watch._refused[0], 0.0, 1.0)  # the pause is over
    assert watch.look()
    mask, model = core.respond(Asked(CLICKS[0])).reply
    assert model == "two"
    assert np.array_equal(mask, cold["two", CLICKS[0]])


@pytest.mark.parametrize("pointer", [None, "{", '{"version": "../one"}', '{"version": "no such"}', "[]"])
def test_a_pointer_to_nothing_changes_nothing(core, watch, store, pointer, caplog):
    file = store.folder / "current"
    kept = file.read_text()
    if pointer is None:
        file.unlink()
    else:
        file.write_text(pointer)
    try:
        assert not watch.look()
        assert not watch.look()
        assert len(caplog.records) == 1
        assert core.respond(Asked(CLICKS[0])).model == "one"
    finally:
        file.write_text(kept)
    assert not watch.look()
    assert core.model == "one"


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_a_server_that_starts_on_a_bad_version_answers_with_another_until_it_is_mended(
    settings, store, photo, caplog, fault
):
    for version in ("three", "one", "three"):
        store.promote(version)
    store.rollback()  # the newest of all, and not to be served
    store.promote("two")
    assert store.pointer().before[-2:] == ("three", "one")
    model = store.path("two") / "model.safetensors"
    hidden, whole = store.folder / ".two", model.read_bytes()
    try:
        if fault == "damaged":
            model.write_bytes(whole[:-100])
        else:
            store.path("two").rename(hidden)
        with caplog.at_level(logging.INFO, "icmformer.serving"):
            engine = starting_engine(settings)
        assert engine.weights.name == "one"
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "one answers instead" in caplog.text
        core = ServingCore(engine, Named(photo), RequestQueue(1, 64, 60.0), metrics=Metrics(engine, NullCache()))
        watch = VersionWatch(core, settings, store, 1)
        assert not watch.look()
        assert metric(core, 'icmformer_switches_total{outcome="refused"}') == 1
    finally:
        if hidden.exists():
            hidden.rename(store.folder / "two")
        model.write_bytes(whole)
    watch._refused = (watch._refused[0], 0.0, 1.0)  # the pause is over
    assert watch.look()
    assert core.model == "two"


def test_where_no_version_can_be_used_the_start_says_why(tmp_path):
    store = VersionStore(tmp_path / "store")
    store.promote(store.add("random:icmformer_vit_tiny224", "only"))
    (store.path("only") / "model.safetensors").write_bytes(b"")
    own = replace(SETTINGS, weights=str(store.folder))
    with pytest.raises(WeightsError, match="only"):
        starting_engine(own)
    (store.folder / "current").write_text("{")
    with pytest.raises(WeightsError, match=r"is damaged .*: icmformer weights promote"):
        starting_engine(own)
    (store.folder / "current").unlink()
    with pytest.raises(WeightsError, match="no current version yet"):
        starting_engine(own)


def test_whatever_a_version_breaks_the_old_one_goes_on(core, watch, store, monkeypatch, caplog):
    monkeypatch.setattr("icmformer.serving.version_watch.load_engine", lambda *_: 1 / 0)
    store.promote("two")
    assert not watch.look()
    assert not watch.look()
    assert len(caplog.records) == 1  # told once, with where it broke, and tried again after a pause
    assert "ZeroDivisionError" in caplog.text
    assert metric(core, 'icmformer_switches_total{outcome="refused"}') == 1
    assert core.respond(Asked(CLICKS[0])).model == "one"


def test_what_a_version_kept_is_there_when_it_comes_back_and_serves_no_other(core, watch, store, cold):
    assert core.respond(Asked(CLICKS[1])).kind == "mask"
    store.promote("two")
    watch.look()
    entries = core.engine.caches.features.stats().entries
    assert np.array_equal(core.respond(Asked(CLICKS[1])).reply[0], cold["two", CLICKS[1]])
    assert core.engine.caches.features.stats().entries > entries  # nothing of the first version was of use
    assert store.rollback() == "one"
    watch.look()
    hits = core.engine.caches.states.stats().hits
    assert np.array_equal(core.respond(Asked(CLICKS[1])).reply[0], cold["one", CLICKS[1]])
    assert core.engine.caches.states.stats().hits > hits


def test_the_old_network_is_let_go(core, watch, store):
    old = weakref.ref(core.engine.backend)
    store.promote("two")
    assert watch.look()
    assert old() is None


def test_weights_without_versions_are_not_watched_nor_are_those_that_shall_stay(core, settings):
    assert watch_versions(core, replace(settings, weights=TRAINED)) is None
    assert watch_versions(core, replace(settings, weights="random:icmformer_vit_tiny224")) is None
    assert watch_versions(core, replace(settings, weights_seconds=0)) is None
    watch = watch_versions(core, replace(settings, weights_seconds=1))
    assert watch is not None
    watch.stop()


def test_a_watch_takes_over_what_becomes_current(core, settings, store):
    watch = watch_versions(core, replace(settings, weights_seconds=1))
    store.promote("three")
    try:
        for _ in range(200):
            if core.model == "three":
                break
            threading.Event().wait(0.1)
        assert core.model == "three"
    finally:
        watch.stop()


def test_the_metrics_say_which_version_is_in_use(core, watch, store):
    store.promote("two")
    watch.look()
    lines = [line for line in core.metrics.text().decode().splitlines() if line.startswith("icmformer_model{")]
    assert {line.split('weights="')[1].split('"')[0]: line.split()[-1] for line in lines} == {
        "one": "0.0",
        "two": "1.0",
    }


def test_seconds_are_a_setting():
    assert Settings.from_environment({"ICMFORMER_WEIGHTS_SECONDS": "30"}).weights_seconds == 30
