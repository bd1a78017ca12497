"""Masks name the version that made them, from the answer to the webhook, the metrics and the report."""

import json
import re
from dataclasses import replace

import pytest

from icmformer.cli.main import main
from icmformer.inference.engine import Engine
from icmformer.serving.click_log import ClickLog
from icmformer.serving.core import load_engine
from icmformer.serving.queue import RequestQueue
from icmformer.serving.version_tags import version_tag
from icmformer.weights import load, save
from icmformer.weights.versions import VersionStore
from ls_backend.app import create_app
from ls_backend.backend import Backend
from ls_backend.known_versions import KnownVersions
from ls_backend.saved_annotations import parse
from ls_backend.settings import BackendSettings
from tests.conftest import TRAINED
from tests.engines import SETTINGS
from tests.ls_backend.conftest import POLYGON, body, click
from tests.ls_backend.test_saved_annotations import answers, webhook


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two versions, of which the second is current."""
    made, store = tmp_path_factory.mktemp("made"), VersionStore(tmp_path_factory.mktemp("store") / "weights")
    starter = load(TRAINED, SETTINGS)
    for name, threshold in (("one", 0.5), ("two", 0.7)):
        serving = replace(starter.serving, threshold=threshold)
        store.add(str(save(made / name, starter.config, starter.state_dict, name, {}, "fp32", serving)), name)
        store.promote(name)
    return store


@pytest.fixture(scope="module")
def engines(store):
    settings = replace(SETTINGS, runtime="torch")
    return {name: Engine.from_weights(store.path(name), "cpu", settings=settings) for name in ("one", "two")}


@pytest.fixture
def make(make_images, tmp_path):
    def backend(engine, name="clicks.jsonl", store=None):
        return Backend(engine, make_images(), RequestQueue(1, 8, 5.0), 200, ClickLog(tmp_path / name), store)

    return backend


def client(backend):
    return create_app(backend, BackendSettings()).test_client()


def counted(client):
    """Masks kept, by the metric's label, where there are any."""
    told = re.findall(r'icmformer_object_clicks_count\{weights="([^"]+)"\} (\S+)', client.get("/metrics").text)
    return {name: float(count) for name, count in told if float(count)}


def test_an_id_is_of_request_and_version_and_tells_both(engines, make):
    requests = [body(click(40, 40)), body(click(40, 40), click(60, 20, positive=False))]
    made = {name: answers(client(make(engine)), *requests, requests[0]) for name, engine in engines.items()}
    ids = {name: [regions[0]["id"] for regions in results] for name, results in made.items()}
    assert ids["one"][0] == ids["one"][2]  # the same request again
    assert len({*ids["one"], *ids["two"]}) == 4
    for number, clicks in enumerate((1, 2)):
        (one, tag), (other, other_tag) = (ids[name][number].split("v") for name in ("one", "two"))
        assert one == other
        assert one.endswith(f"n{clicks}")
        model = make(engines["one"]).model_version
        assert (tag, other_tag) == (version_tag(model), version_tag(make(engines["two"]).model_version))
        save = parse(webhook(1, {"id": ids["one"][number], "origin": "prediction"}))
        assert [(r.id, r.clicks, r.version) for r in save.regions] == [(ids["one"][number], clicks, tag)]


def test_parts_of_a_mask_and_ids_without_a_tag_still_count(engines, make):
    (regions,) = answers(client(make(engines["one"])), body(click(40, 40), config=POLYGON))
    first = regions[0]["id"]
    kept = [
        {"id": i, "origin": "prediction"} for i in (first, f"{first}-1", "0123456789abcdefn3", "fedcba9876543210n2-4")
    ]
    found = parse(webhook(1, *kept)).regions
    assert [(r.id, r.clicks) for r in found] == [(first, 1), ("0123456789abcdefn3", 3), ("fedcba9876543210n2", 2)]
    assert [r.version is None for r in found] == [False, True, True]
    for wrong in ("v", "v123", "v123456789", "vABCDEF01", "v1234567\u0661"):
        assert not parse(webhook(1, {"id": f"0123456789abcdefn3{wrong}", "origin": "prediction"})).regions


def test_masks_kept_count_for_the_version_that_made_them_whichever_replica_hears_of_it(
    engines, make, store, tmp_path, capsys
):
    old, new = make(engines["one"]), make(engines["two"], "other.jsonl", store)
    one, two = client(old), client(new)
    first, second = answers(one, body(click(40, 40)))[0], answers(two, body(click(60, 40), click(50, 50)))[0]
    two.post("/webhook", json=webhook(1, *first, *second))  # this process never served `one`: the store has it
    assert counted(two) == {"one": 1, "two": 1}
    one.post("/webhook", json=webhook(2, *second))  # and this one has no store
    assert counted(one) == {"other": 1}
    assert main(["clicks", "report", str(tmp_path / "clicks.jsonl"), str(tmp_path / "other.jsonl"), "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)["label studio"]["versions"]
    assert [v["version"] for v in versions] == [old.model_version, new.model_version]
    assert [v["objects"] for v in versions] == [1, 2]
    assert [v["clicks_an_object"]["mean"] for v in versions] == [1, 2]
    (kept,) = [json.loads(line) for line in (tmp_path / "other.jsonl").read_text().splitlines()][1:]
    assert kept["regions"][0] == {
        "id": first[0]["id"],
        "clicks": 1,
        "edited": False,
        "version": version_tag(old.model_version),
        "model": old.model_version,
    }


def test_after_a_switch_both_versions_are_known(engines, make):
    backend = make(engines["one"])
    served = client(backend)
    first = answers(served, body(click(40, 40)))[0]
    backend.core.switch(engines["two"])
    second = answers(served, body(click(40, 40)))[0]
    served.post("/webhook", json=webhook(1, *first, *second))
    assert counted(served) == {"one": 1, "two": 1}


def test_a_backend_of_a_store_knows_its_versions(store, studio, monkeypatch, tmp_path, engines, make):
    settings = replace(
        BackendSettings.from_environment(
            {"ICMFORMER_WEIGHTS": str(store.folder), "ICMFORMER_CACHE_DIR": str(tmp_path), "ICMFORMER_RUNTIME": "torch"}
        ),
        weights_seconds=0,
    )
    served = client(Backend.from_settings(settings))
    assert load_engine(settings).weights.name == "two"
    served.post("/webhook", json=webhook(1, *answers(client(make(engines["one"])), body(click(40, 40)))[0]))
    assert counted(served) == {"one": 1}


def test_ids_that_nobody_made_make_neither_labels_nor_work(store, engines, make):
    backend = make(engines["two"], store=store)
    served = client(backend)
    forged = [{"id": f"{n:016x}n1v{n:08x}", "origin": "prediction"} for n in range(500)]
    served.post("/webhook", json=webhook(1, *forged))
    assert counted(served) == {"other": 500}

    class Counting(VersionStore):
        looks = 0

        def versions(self):
            Counting.looks += 1
            return super().versions()

    now = [0.0]
    known = KnownVersions({}, Counting(store.folder), lambda: now[0])
    for n in range(500):
        assert known.find(f"{n:08x}") is None
    assert Counting.looks == 1
    assert known.find(version_tag(make(engines["one"]).model_version)).weights == "one"
    now[0] = 11.0
    for n in range(500):
        assert known.find(f"{n:08x}") is None
    assert Counting.looks == 2  # a version may have been added meanwhile


def test_a_store_that_is_gone_costs_no_count(engines, make, tmp_path):
    (tmp_path / "store").write_text("no folder")
    served = client(make(engines["one"], store=VersionStore(tmp_path / "store")))
    served.post("/webhook", json=webhook(1, {"id": "0123456789abcdefn1v01234567", "origin": "prediction"}))
    assert counted(served) == {"other": 1}
