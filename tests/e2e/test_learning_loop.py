"""From annotators' masks to better weights within the tool, with clicks going on, and whatever dies meanwhile."""

import base64
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.studio import CONFIGS, Studio
from icmformer import Engine, LoadedImage
from icmformer.weights import load
from icmformer.weights.versions import VersionStore
from ls_backend import rle
from tests.e2e.annotator import Annotator, clicks_of
from tests.e2e.conftest import PICTURES, STUDIO_BIN
from tests.engines import SETTINGS
from tests.ls_backend.conftest import body, click
from tests.training.finetuning.label_studio_exports import packed
from tests.training.test_finetune import write_rings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
OPTIONS = "--samples 160 --batch 8 --objects 24 --held-out 0.35 --choosing 0 --workers 0 --threads 2"
SIZE = (200, 160)


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """Label Studio and a backend whose *Start Training* is on, of their own: tests here kill them."""
    if not (STUDIO_BIN / "label-studio").exists():
        pytest.skip(f"no Label Studio in {STUDIO_BIN}; `make e2e` installs it")
    home = tmp_path_factory.mktemp("loop")
    made = Studio(home, STUDIO_BIN, Path(sys.executable), ports=(0, 0), training=OPTIONS)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        for pid in training_pids(made):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of two rings each, and the rings' label maps."""
    folder = write_rings(tmp_path_factory.mktemp("rings"), 36)
    files = {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}
    masks = {path.name: np.asarray(Image.open(path)) for path in (folder / "masks").iterdir()}
    return files, masks


def asked(studio, path, body=None):
    """What the backend answers to somebody with its credentials."""
    login = base64.b64encode(":".join(studio.backend_login).encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(studio.backend_url + path, data, headers), timeout=120) as reply:
        return json.loads(reply.read())


def training_pids(studio):
    """The processes that train in the studio's folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"icmformer.applications.training.finetune" in command and any(
            str(studio.home).encode() in part for part in command
        ):
            found.append(int(place.name))
    return found


def wait_for(what, seconds=400, pause=0.3):
    """The first true answer of a function."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(pause)
    return found


def finished(studio, run):
    def there():
        status = asked(studio, "/training")
        return status if status["state"] != "running" and run in status["run"] else None

    return wait_for(there)


def annotate_by_api(studio, project, masks, leave=()):
    """What colleagues annotated before: the rings, as Label Studio keeps brush masks."""
    for task in studio.api("GET", f"/api/tasks?project={project}&page_size=100")["tasks"]:
        name = task["data"]["image"].rsplit("-", 1)[-1]
        if name in leave:
            continue
        regions = [
            {
                "id": f"ring{label}{task['id']:06}",
                "from_name": "mask",
                "to_name": "image",
                "type": "brushlabels",
                "original_width": SIZE[0],
                "original_height": SIZE[1],
                "image_rotation": 0,
                "value": {"format": "rle", "rle": packed(masks[name] == label), "brushlabels": ["Object"]},
            }
            for label in (1, 2)
        ]
        studio.api("POST", f"/api/tasks/{task['id']}/annotations/", {"result": regions})


def press_start_training(page, studio, project, picture):
    """As a project's manager does in its settings."""
    page.goto(f"{studio.url}/projects/{project}/settings/ml")
    page.get_by_label("Machine learning model options").click()
    page.get_by_text("Start Training", exact=True).first.click()
    with page.expect_response(lambda r: "/train" in r.url, timeout=60_000) as waiting:
        page.get_by_role("button", name="Start Training").click()
    page.wait_for_timeout(700)
    page.screenshot(path=PICTURES / f"{picture}.png")
    return waiting.value.status


class Load:
    """Clicks that go on from several annotators, straight at the backend; every reply is kept."""

    def __init__(self, studio, tasks, annotators=2):
        self.replies, self.faults, self._stopping = [], [], threading.Event()
        self._studio, self._tasks = studio, tasks
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(annotators)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number):
        turn, own = number, self._tasks[number :: len(self._threads)]  # two at one object would supersede each other
        while not self._stopping.is_set():
            task = own[turn // 2 % len(own)]
            places = [(25, 50), (70, 50)][: 1 + turn % 2]
            clicks = [click(x, y, identity=f"{turn} {x}", size=SIZE, label="Object") for x, y in places]
            request = body(*clicks, image=task["data"]["image"], config=CONFIGS["brush"], task=task["id"])
            for item in request["params"]["context"]["result"]:
                item["from_name"] = "click"
            try:
                reply = asked(self._studio, "/predict", request)["results"][0]
                self.replies.append((task["data"]["image"], places, reply))
            except Exception as error:
                self.faults.append(repr(error))
            turn += 1
            self._stopping.wait(0.05)


def check_every_mask(replies, studio, images):
    """Every mask is, to the pixel, that of the version whose name its reply has."""
    store, engines, known = VersionStore(studio.weights), {}, {}
    for address, places, reply in replies:
        version = reply["model_version"].split()[1]
        if version not in engines:
            engines[version] = Engine(load(store.path(version), SETTINGS), "cpu", "fast", settings=SETTINGS)
        key = version, address, tuple(places)
        if key not in known:
            sent = [{"id": str(n), "value": {"x": x, "y": y}} for n, (x, y) in enumerate(places)]
            known[key] = engines[version].segment(images[address], clicks_of(sent, images[address])).runs
        (region,) = reply["result"]
        assert region["value"]["rle"] == rle.encode(known[key])
    return set(engines)


def test_from_the_first_click_to_promoted_weights_with_clicks_going_on(loop, sign_in, photos):
    files, masks = photos
    project = loop.project("rings", CONFIGS["brush"], files)
    page = sign_in(loop)
    by_hand = ("p0.png", "p1.png")
    annotate_by_api(loop, project, masks, leave=(*by_hand, "p2.png"))
    for name in by_hand:
        annotator = Annotator(page, loop, project, name)
        annotator.click(*centre_of_ring(masks[name]))
        annotator.accept_and_submit()
    tasks = loop.api("GET", f"/api/tasks?project={project}&page_size=100")["tasks"]
    images = {
        task["data"]["image"]: LoadedImage.from_bytes(files[task["data"]["image"].rsplit("-", 1)[-1]]) for task in tasks
    }
    store = VersionStore(loop.weights)
    first = store.current
    with Load(loop, tasks[2:6]) as load_:
        assert press_start_training(page, loop, project, "loop-1-start-training") == 200
        status = wait_for(lambda: (s := asked(loop, "/training"))["state"] == "running" and s)
        assert status["project"] == project
        page.goto(f"{loop.backend_url}/training")
        page.screenshot(path=PICTURES / "loop-2-training.png")
        status = finished(loop, "run-1")
        assert status["state"] == "promoted", status
        assert status["version"] == store.current != first
        wait_for(lambda: asked(loop, "/health")["model_version"].split()[1] == store.current, 60)
        before = len(load_.replies)
        wait_for(lambda: len(load_.replies) > before + 5, 60)
    assert load_.faults == []
    assert check_every_mask(load_.replies, loop, images) == {first, store.current}
    page.goto(f"{loop.backend_url}/training")
    page.screenshot(path=PICTURES / "loop-3-promoted.png")
    assert store.current in page.content()
    annotator = Annotator(page, loop, project, "p2.png")
    told = []
    page.on("response", lambda r: told.append(r) if "interactive-annotating" in r.url else None)
    annotator.click(*centre_of_ring(masks["p2.png"]))
    assert told[-1].json()["data"]["model_version"].split()[1] == store.current
    annotator.picture("loop-4-new-version")


def centre_of_ring(labels):
    """A point on the first ring, as shares of width and height."""
    rows, columns = np.nonzero(labels == 1)
    middle = np.argmin(np.abs(rows - rows.mean()) + np.abs(columns - columns.min() - 6))
    return (columns[middle] + 0.5) / SIZE[0], (rows[middle] + 0.5) / SIZE[1]


def test_weights_that_nothing_shows_to_be_better_are_refused_and_the_reason_is_told(loop, sign_in, photos):
    files, masks = photos
    few = {name: files[name] for name in ("p3.png", "p4.png", "p5.png", "p6.png")}
    project = loop.project("few rings", CONFIGS["brush"], few)
    annotate_by_api(loop, project, masks)
    page = sign_in(loop)
    current = VersionStore(loop.weights).current
    assert press_start_training(page, loop, project, "loop-5-few") == 200
    wait_for(lambda: asked(loop, "/training")["project"] == project, 60)
    status = finished(loop, "run-1")
    assert status["state"] == "not promoted"
    assert "10 independent photos" in status["reason"]
    assert VersionStore(loop.weights).current == current
    page.goto(f"{loop.backend_url}/training")
    assert "10 independent photos" in page.content()
    page.screenshot(path=PICTURES / "loop-6-refused.png")


@pytest.mark.parametrize("victim", ["training", "backend", "label studio"])
def test_whatever_is_killed_in_the_middle_nothing_is_lost(loop, sign_in, photos, victim):
    files, masks = photos
    chosen = {name: files[name] for name in sorted(files)[:24]}
    project = loop.project(f"killed {victim}", CONFIGS["brush"], chosen)
    annotate_by_api(loop, project, masks)
    page = sign_in(loop)
    assert press_start_training(page, loop, project, f"loop-kill-{victim.replace(' ', '-')}") == 200
    run = loop.home / "training" / f"project-{project}" / "run-1"
    first = run / "snapshot" / "project.json"
    if victim == "label studio":  # at once: reading takes a second or two
        wait_for(first.exists, 60, 0.01)
        os.killpg(loop.label_studio.child.pid, signal.SIGKILL)
        begun = first.stat().st_mtime_ns
    wait_for(lambda: (s := asked(loop, "/training"))["project"] == project and s["state"] == "running", 60)
    (pid,) = wait_for(lambda: training_pids(loop), 60)
    if victim == "label studio":
        loop.label_studio.child.wait()
        wait_for(lambda: "trying again in" in asked(loop, "/training")["says"], 60)  # it misses Label Studio
        page.goto(f"{loop.backend_url}/training")
        assert "trying again in" in page.content()
        loop.label_studio.start()
        loop.label_studio.wait_for(f"{loop.url}/health", 300)
    else:
        wait_for(lambda: (s := asked(loop, "/training"))["stage"] == "training" and s["done"] >= 8)
        if victim == "training":
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: asked(loop, "/training")["state"] == "interrupted", 60)
            saved = (run / "run" / "checkpoint.pt").exists()
            read, before = run / "data" / "parts.json", run / "before" / "results.json"
            kept = read.stat().st_mtime_ns, before.read_text()
            assert press_start_training(page, loop, project, "loop-kill-again") == 200
        else:
            os.killpg(loop.backend.child.pid, signal.SIGKILL)
            loop.backend.child.wait()
            assert pid in training_pids(loop)  # it goes on by itself
            loop.backend.start()
            loop.backend.wait_for(f"{loop.backend_url}/health", 120)
            assert asked(loop, "/training")["state"] == "running"
    status = finished(loop, "run-1")
    if victim == "label studio" and status["state"] == "failed":  # it was away for longer than is waited for
        assert press_start_training(page, loop, project, "loop-kill-again") == 200
        wait_for(lambda: asked(loop, "/training")["state"] == "running", 60)
        status = finished(loop, "run-1")
    assert status["state"] in ("promoted", "not promoted"), status
    assert status["run"].endswith("run-1")  # the same run went on
    log = (run / "training.log").read_text()
    assert "Traceback" not in log
    if victim == "label studio":
        assert first.stat().st_mtime_ns == begun  # what was read is not read again
    if victim == "training":  # what was done is not done again
        assert (read.stat().st_mtime_ns, before.read_text()) == kept
        assert ("going on after" in log) == saved
