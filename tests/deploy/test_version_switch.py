"""Real servers that share a store of weights: two backends and a function of two workers come to serve the same."""

import base64
import json
import sys
import time
import urllib.request
from dataclasses import replace

import pytest
from skimage import data

from demo.studio import Process, free_port
from icmformer import Click, Engine, LoadedImage
from icmformer.weights import load, save
from icmformer.weights.versions import VersionStore
from ls_backend import rle as studio_rle
from serverless.rle import encode_mask
from tests.conftest import TRAINED
from tests.engines import SETTINGS
from tests.ls_backend.conftest import body, click, png

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CLICK = Click(225.0, 150.0)


@pytest.fixture
def store(tmp_path):
    """Two versions of the starter that cut their masks off at other probabilities."""
    starter, store = load(TRAINED, SETTINGS), VersionStore(tmp_path / "weights")
    for name, threshold in (("one", starter.serving.threshold), ("two", 0.8)):
        serving = replace(starter.serving, threshold=threshold)
        store.add(save(tmp_path / name, starter.config, starter.state_dict, name, {}, "fp16", serving), name)
    store.promote("one")
    return store


@pytest.fixture
def servers(store, studio, tmp_path, converted):
    environment = {
        "LABEL_STUDIO_URL": studio.url,
        "ICMFORMER_CACHE_DIR": str(converted),
        "ICMFORMER_WEIGHTS": str(store.folder),
        "ICMFORMER_WEIGHTS_SECONDS": "1",
    }
    commands = [["ls_backend"], ["ls_backend"], ["serverless.local", "--workers", "2"]]
    started = []
    for number, command in enumerate(commands):
        port = free_port(0)
        run = [sys.executable, "-m", *command, "--port", str(port)]
        process = Process(f"server {number}", run, environment, tmp_path / f"server-{number}.log")
        process.port = port
        process.start()
        started.append(process)
    for process, path in zip(started, ("/health", "/health", "/__internal/health"), strict=True):
        process.wait_for(f"http://127.0.0.1:{process.port}{path}", 120)
    yield started
    for process in started:
        process.stop()


def answered(process):
    """The version that a reply names, and its mask in the tool's own form."""
    cat = data.chelsea()
    if "ls_backend" in process.command:
        asked = body(click(100 * CLICK.x / 451, 100 * CLICK.y / 300))
        path = "/predict"
    else:
        points = {"pos_points": [[CLICK.x, CLICK.y]], "neg_points": [], "obj_bbox": []}
        asked = {"image": base64.b64encode(png(cat)).decode(), **points}
        path = "/"
    call = urllib.request.Request(
        f"http://127.0.0.1:{process.port}{path}", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=60) as reply:
        found = json.loads(reply.read())
        header = reply.headers.get("X-Icmformer-Model")
    if header:
        return header.split()[0], found["shapes"][0]["points"]
    return found["results"][0]["model_version"].split()[1], found["results"][0]["result"][0]["value"]["rle"]


def test_all_of_them_follow_a_promotion_and_a_rollback(store, servers):
    masks = {}
    for version in ("one", "two"):
        engine = Engine(load(store.path(version), SETTINGS), "cpu", "fast", settings=SETTINGS)
        mask = engine.segment(LoadedImage.from_array(data.chelsea()), [CLICK]).runs
        masks[version] = studio_rle.encode(mask), encode_mask(mask, parts=False)[0]
    assert masks["one"] != masks["two"]
    for change, current in ((None, "one"), (lambda: store.promote("two"), "two"), (store.rollback, "one")):
        if change:
            change()
        deadline, named = time.monotonic() + 60, {}
        # a worker of the function answers whichever request finds it free: several in a row of the new one
        while any(names[-4:] != [current] * 4 for names in named.values()) or len(named) < len(servers):
            assert time.monotonic() < deadline, named
            for process in servers:
                version, mask = answered(process)
                assert mask in masks[version]
                named.setdefault(process.name, []).append(version)
            time.sleep(0.2)
    for process in servers:  # a network that gave way must not take the process along
        process.stop()
        assert process.child.returncode in (0, -15), process.log.read_text()
        assert "SIGSEGV" not in process.log.read_text()
