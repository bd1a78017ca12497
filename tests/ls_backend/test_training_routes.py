"""Start Training over HTTP: who may press, what is answered, and how a training is told of."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import pytest

from demo.studio import Process, free_port
from icmformer.models import build_network
from icmformer.weights import save
from icmformer.weights.versions import VersionStore
from ls_backend.app import create_app
from ls_backend.settings import BackendSettings
from tests.commands import run_module
from tests.conftest import ROOT
from tests.engines import MINIATURE
from tests.ls_backend.trainings import DRAWN, Trainings, ended, process_of, trains, wait_for

LOGIN = {"Authorization": "Basic " + base64.b64encode(b"u:secret-pass").decode()}
PRESS = {"action": "START_TRAINING", "project": {"id": 3, "title": "cats"}}
TRAIN = {"annotations": [], "project": "3.1700000000", "label_config": "<View/>", "params": {}}
"""What Label Studio sends, without its webhook for trainings."""
PLAYED = """
import sys
import icmformer.applications.ls_backend.training_options as options
options.PROGRAM = (sys.executable, sys.argv.pop(1))
import icmformer.applications.ls_backend.__main__ as main
raise SystemExit(main.main())
"""


@pytest.fixture
def trainings(tmp_path):
    made = Trainings(tmp_path)
    yield made
    if made.root.exists():
        made.end()
        wait_for(lambda: not made.jobs().runs.training())


@pytest.fixture
def served(trainings, make_backend):
    """A client of a backend that trains, and the backend."""
    backend = make_backend()
    backend.trainings = trainings.jobs(backend.metrics, training_every=2)
    backend.trainings.begin()
    return create_app(backend, trainings.settings()).test_client(), backend


@pytest.mark.parametrize(("path", "request_"), [("/webhook", PRESS), ("/train", TRAIN)])
def test_both_ways_in_which_label_studio_presses_start_one(served, trainings, path, request_):
    client, backend = served
    reply = client.post(path, json=request_, headers=LOGIN)
    assert (reply.status_code, reply.json["status"], reply.json["job"]) == (200, "started", "project-3/run-1")
    trains(backend.trainings)
    again = client.post(path, json=request_, headers=LOGIN)
    assert (again.status_code, again.json["status"]) == (200, "running")
    asked = client.post("/job_status", json={"job": reply.json["job"]}, headers=LOGIN)
    assert (asked.status_code, asked.json["job_status"]) == (200, "started")
    trainings.end(state="promoted", version="v-0002")
    ended(backend.trainings)
    assert client.post("/job_status", json={"job": reply.json["job"]}, headers=LOGIN).json["job_status"] == "finished"
    for job in ("project-3/run-9", "../../etc", None, 3):
        gone = client.post("/job_status", json={"job": job}, headers=LOGIN)
        assert gone.status_code == 410  # as Label Studio wants it


@pytest.mark.parametrize("login", [{}, {"Authorization": "Basic " + base64.b64encode(b"u:wrong").decode()}])
def test_who_shows_no_credentials_starts_and_learns_nothing(served, trainings, login):
    client, _ = served
    created = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": DRAWN}, "project": {"id": 3}}
    for request_ in (PRESS, created, created | {"annotation": {"id": 2, "result": DRAWN}}):
        reply = client.post("/webhook", json=request_, headers=login)
        assert reply.status_code == (401 if login else 200)
        assert login or reply.json == {"status": "ignored"}
    for path in ("/train", "/job_status"):
        assert client.post(path, json=TRAIN, headers=login).status_code == 401
    assert client.get("/training", headers=login).status_code == 401
    assert not list(trainings.root.glob("project-*"))


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""])
def test_what_another_sites_page_can_send_starts_nothing(served, trainings, kind):
    """A form sends these alone, with the credentials that the browser of a manager remembers."""
    client, _ = served
    for path, request_ in (("/webhook", PRESS), ("/train", TRAIN)):
        headers = LOGIN | ({"Content-Type": kind} if kind else {})
        reply = client.post(path, data=json.dumps(request_), headers=headers)
        assert (reply.status_code, reply.json["kind"]) == (415, "unsupported media type")
        assert "application/json" in reply.json["error"]
    assert not list(trainings.root.glob("project-*"))


def test_annotations_that_the_webhook_tells_of_start_one(served, trainings):
    client, backend = served
    for number in (1, 1, 2):
        assert not backend.trainings.runs.training()
        created = {"action": "ANNOTATION_CREATED", "annotation": {"id": number, "result": DRAWN}, "project": {"id": 3}}
        assert client.post("/webhook", json=created, headers=LOGIN).status_code == 200
    assert trains(backend.trainings)["run"] == "project-3/run-1"


def test_a_backend_without_trainings_says_what_to_set(client, server_log):
    for path, request_ in (("/webhook", PRESS), ("/train", TRAIN)):
        reply = client.post(path, json=request_)
        assert (reply.status_code, reply.json["kind"]) == (409, "training refused")
        for name in ("ICMFORMER_TRAINING_DIR", "BASIC_AUTH_USER", "LABEL_STUDIO_API_KEY", "ICMFORMER_WEIGHTS"):
            assert name in reply.json["error"]
    assert server_log.getvalue().count("Start Training is off: give the backend ICMFORMER_TRAINING_DIR") == 2
    assert 'icmformer_errors_total{kind="training refused"} 2.0' in client.get("/metrics").text
    assert client.get("/training").json["state"] == "off"
    assert "ICMFORMER_TRAINING_DIR" in client.get("/training", headers={"Accept": "text/html"}).text


def test_a_training_is_told_to_programs_to_people_and_to_prometheus(served, trainings):
    client, backend = served
    assert client.get("/training", headers=LOGIN).json == {"state": "none", "runs": []}
    client.post("/webhook", json=PRESS, headers=LOGIN)
    trains(backend.trainings)
    told = client.get("/training", headers=LOGIN).json
    expected = {"state": "running", "project": 3, "run": "project-3/run-1", "stage": "training", "total": 100}
    assert expected.items() <= told.items()
    assert told["done"] > 2
    assert told["since"] == "2026-01-02T03:04:05+00:00"
    assert {"reason", "version", "error"} <= set(told)
    assert told["says"] == "going on after 0 samples"
    html = {**LOGIN, "Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}  # a browser's
    page = client.get("/training", headers=html)
    assert page.mimetype == "text/html"
    assert "http-equiv=refresh" in page.text
    assert "<progress max=100 value=" in page.text
    wait_for(lambda: "icmformer_training_running 1.0" in client.get("/metrics", headers=LOGIN).text)
    trainings.end(state="not promoted", reason="<b>few</b> photos")
    wait_for(lambda: 'outcome="not promoted"} 1.0' in client.get("/metrics", headers=LOGIN).text)
    metrics = client.get("/metrics", headers=LOGIN).text
    assert "icmformer_training_running 0.0" in metrics
    assert 'icmformer_trainings_total{outcome="promoted"} 0.0' in metrics
    told = client.get("/training", headers=LOGIN).json
    assert (told["state"], told["reason"]) == ("not promoted", "<b>few</b> photos")
    page = client.get("/training", headers=html).text
    assert "&lt;b&gt;few&lt;/b&gt; photos" in page
    assert "refresh" not in page


def test_the_page_leads_to_the_report(served, trainings):
    client, backend = served
    client.post("/webhook", json=PRESS, headers=LOGIN)
    trains(backend.trainings)
    html = {**LOGIN, "Accept": "text/html"}
    assert "href" not in client.get("/training", headers=html).text
    (trainings.run("project-3/run-1") / "report.html").write_text("<h1>how it went</h1>")
    found = re.search('href="([^"]+)"', client.get("/training", headers=html).text)
    report = client.get(urljoin("/training", found[1]), headers=LOGIN)
    assert (report.mimetype, report.text) == ("text/html", "<h1>how it went</h1>")
    assert client.get(urljoin("/training", found[1])).status_code == 401
    for name in ("project-3/run-2", "project-4/run-1", "project-3", "..", "project-3/run-1/report.html"):
        assert client.get(f"/training/report/{name}", headers=LOGIN).status_code == 404


class Server:
    """The backend's own command with the stand-in for trainings."""

    def __init__(self, trainings, home, converted, workers=1):
        (home / "played.py").write_text(PLAYED)
        self.url = f"http://127.0.0.1:{(port := free_port(0))}"
        options = ["--port", str(port), "--workers", str(workers)]
        command = [sys.executable, str(home / "played.py"), str(trainings.program), *options]
        environment = {
            "PYTHONPATH": str(ROOT),
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "LABEL_STUDIO_API_KEY": "secret-token",
            "BASIC_AUTH_USER": "u",
            "BASIC_AUTH_PASS": "secret-pass",
            "ICMFORMER_CACHE_DIR": str(converted),
            "ICMFORMER_WEIGHTS": str(trainings.store),
            "ICMFORMER_RUNTIME": "torch",
            "ICMFORMER_TRAINING_DIR": str(trainings.root),
        }
        self.process = Process("the backend", command, environment, home / "backend.log")

    def start(self):
        self.process.start()
        self.process.wait_for(f"{self.url}/health", 120)

    def kill(self):
        os.killpg(self.process.child.pid, signal.SIGKILL)
        self.process.child.wait()

    def ask(self, path, content=None):
        data = None if content is None else json.dumps(content).encode()
        request_ = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **LOGIN})
        with urllib.request.urlopen(request_, timeout=30) as reply:
            return reply.read().decode()

    def training(self):
        return json.loads(self.ask("/training"))


@pytest.mark.slow
def test_a_training_outlives_its_backend_and_one_that_was_killed_goes_on_with_the_next(trainings, tmp_path, converted):
    """Of two worker processes, with metrics that they share."""
    made = save(tmp_path / "made", MINIATURE, build_network(MINIATURE).state_dict(), "miniature", {})
    store = VersionStore(trainings.store)
    store.promote(store.add(made))
    server = Server(trainings, tmp_path, converted, workers=2)
    run = trainings.run("project-3/run-1")
    try:
        server.start()
        assert json.loads(server.ask("/webhook", PRESS))["job"] == "project-3/run-1"
        wait_for(lambda: server.training()["done"] > 2)
        first = process_of(run)
        server.kill()
        before = trainings.status("project-3/run-1")["done"]
        wait_for(lambda: trainings.status("project-3/run-1")["done"] > before)  # it goes on alone
        server.start()
        command = ["curl", "-s", "-u", "u:secret-pass", f"{server.url}/training"]
        assert json.loads(subprocess.run(command, capture_output=True, timeout=30).stdout)["state"] == "running"
        assert json.loads(server.ask("/webhook", PRESS))["status"] == "running"
        assert process_of(run) == first
        wait_for(lambda: "icmformer_training_running 1.0" in server.ask("/metrics"))

        server.kill()
        os.kill(first, signal.SIGKILL)
        server.start()
        wait_for(lambda: server.training()["done"] > 2)
        second = process_of(run)
        assert second != first
        assert (run / "training.log").read_text().count("going on after") == 2
        assert os.getpriority(os.PRIO_PROCESS, second) == 19
        command = Path(f"/proc/{second}/cmdline").read_text()
        assert "--promote" in command
        assert "secret" not in command
        trainings.end(state="promoted", version="v-0002")
        wait_for(lambda: 'icmformer_trainings_total{outcome="promoted"} 1.0' in server.ask("/metrics"))
        time.sleep(1)  # two looks of each worker
        assert 'icmformer_trainings_total{outcome="promoted"} 1.0' in server.ask("/metrics")
        assert "icmformer_training_running 0.0" in server.ask("/metrics")
        assert server.process.log.read_text().count("training project-3/run-1: promoted v-0002") == 1
        assert "secret" not in server.process.log.read_text()
    finally:
        server.process.stop()


def test_the_command_says_what_is_missing_and_serves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ICMFORMER_TRAINING_DIR", str(tmp_path / "runs"))
    done = run_module("ls_backend", "--port", "0")
    assert done.returncode == 2
    assert "ICMFORMER_TRAINING_DIR (Start Training) needs BASIC_AUTH_USER and BASIC_AUTH_PASS" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_settings_come_from_the_environment():
    settings = BackendSettings.from_environment(
        {
            "ICMFORMER_TRAINING_DIR": "/runs",
            "ICMFORMER_TRAINING_EVERY": "50",
            "ICMFORMER_TRAINING_OPTIONS": "--group-by 'a (b)' --accepted",
        }
    )
    assert settings.training_every == 50
    assert settings.training_options == ("--group-by", "a (b)", "--accepted")
    assert str(settings.training_dir) == "/runs"
