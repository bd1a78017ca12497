"""The backend as its own commands start it: when the port opens, what it says of wrong settings, many who wait."""

import http.client
import json
import logging
import socket
import sys
import threading
import time
import urllib.request

import pytest
from gunicorn.config import Config
from gunicorn.sock import TCPSocket

from demo.studio import Process, free_port
from tests.commands import run_module
from tests.conftest import ROOT
from tests.ls_backend.conftest import body, click
from tests.ls_backend.test_soak import ask

PLAYED = """
import time
import icmformer.applications.ls_backend.worker
from icmformer import Engine
icmformer.applications.ls_backend.worker.SENDING_SECONDS = 2
segment = Engine.segment
Engine.segment = lambda *a, **k: time.sleep(0.5) or segment(*a, **k)
import icmformer.applications.ls_backend.__main__ as main
raise SystemExit(main.main())
"""
"""A backend whose clicks take half a second more, and which waits two seconds for a request that does not come."""


@pytest.fixture
def start(tmp_path, studio, converted):
    """Starts a command with the studio's address; ends it after the test."""
    started = []

    def run(command, port, **environment):
        environment = {"LABEL_STUDIO_URL": studio.url, "ICMFORMER_CACHE_DIR": str(converted), **environment}
        process = Process("the backend", command, environment, tmp_path / "backend.log")
        process.url = f"http://127.0.0.1:{port}"
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.stop()


def opened(server, port):
    """The first connection that a server takes."""
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        assert server.child.poll() is None, server.log.read_text()
        try:
            return socket.create_connection(("127.0.0.1", port), 1)
        except OSError:
            time.sleep(0.02)


def test_who_asks_how_it_is_waits_neither_behind_clicks_nor_behind_callers_who_never_finish(start, tmp_path):
    port = free_port(0)
    (tmp_path / "played.py").write_text(PLAYED)
    command = [sys.executable, str(tmp_path / "played.py"), "--port", str(port)]
    server = start(command, port, PYTHONPATH=str(ROOT), ICMFORMER_QUEUE="12", ICMFORMER_QUEUE_SECONDS="3")
    server.wait_for(f"{server.url}/health", 120)
    ask(server, body(click(40, 40)))
    statuses, served = [], []

    def client(n):
        try:
            ask(server, body(click(30 + n, 40), task=n))
            statuses.append(200)
        except urllib.error.HTTPError as error:
            statuses.append(error.code)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        before = statuses.count(200)
        with urllib.request.urlopen(f"{server.url}/health", timeout=60):
            served.append(statuses.count(200) - before)
        time.sleep(0.1)
    assert max(served) <= 2  # clicks that came to an end while it was asked: it did not wait for the others
    assert len(statuses) == len(threads)
    assert set(statuses) == {200, 503}
    assert statuses.count(503) >= 7  # who finds the queue full, and who waits in vain

    half = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    callers = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(60)]  # more than there are threads
    for caller in callers:
        caller.sendall(half)
    with urllib.request.urlopen(f"{server.url}/health", timeout=25) as reply:  # less than the 30 s that are usual
        assert reply.status == 200
    assert ask(server, body(click(40, 40)))
    for caller in callers:
        caller.close()
    assert "Traceback" not in server.log.read_text()


def test_health_answers_while_image_hosts_do_not(start):
    """Fetches count against the queue: who comes too late is told so at once; when they end, clicks are served."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=200)  # takes connections and says nothing
    port = free_port(0)
    hosts = {"ICMFORMER_ALLOWED_HOSTS": "localhost", "ICMFORMER_QUEUE": "40", "ICMFORMER_FETCH_SECONDS": "5"}
    command = [sys.executable, "-m", "icmformer", "serve", "label-studio", "--port", str(port), "--threads", "8"]
    server = start(command, port, **hosts)
    server.wait_for(f"{server.url}/health", 120)
    assert "warning: 8 threads leave none for /health once 41 requests are there; 49 are used" in server.log.read_text()
    address = f"http://localhost:{silent.getsockname()[1]}"
    statuses = []

    def client(n):
        try:
            ask(server, body(click(40, 40), task=n, image=f"{address}/{n}.png"))
        except urllib.error.HTTPError as error:
            statuses.append(error.code)

    def status(path):
        try:
            with urllib.request.urlopen(f"{server.url}{path}", timeout=3) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    threads = [threading.Thread(target=client, args=(n,)) for n in range(60)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 4
    while len(statuses) < 19 and time.monotonic() < deadline:
        assert status("/health") == 200
        time.sleep(0.05)
    assert statuses == [503] * 19  # 41 fetch
    assert status("/ready") == 503
    for _ in range(20):
        assert status("/health") == 200
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [502] * 41 + [503] * 19
    assert status("/ready") == 200
    assert ask(server, body(click(40, 40)))
    silent.close()


def test_gunicorn_can_be_told_that_its_socket_listens_already(monkeypatch):
    """A private name of gunicorn's (`_serve`): without it the port would open before the model is there."""
    monkeypatch.setattr("gunicorn.sock.BaseSocket._is_listening", staticmethod(lambda sock: True))
    listener = TCPSocket(("127.0.0.1", 0), Config(), logging.getLogger())
    try:
        assert not listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        listener.close()


def test_the_port_opens_once_the_model_is_there_any_worker_tells_of_all_and_logs_are_json(start):
    port = free_port(0)
    server = start(
        [sys.executable, "-m", "icmformer", "serve", "label-studio", "--port", str(port), "--workers", "2"],
        port,
        LOG_FORMAT="json",
    )
    with opened(server, port) as connection:
        assert "ready" in server.log.read_text()
        connection.settimeout(10)
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 200")
    threads = [threading.Thread(target=ask, args=(server, body(click(30 + n, 40), task=n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(4):
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as reply:
            told = reply.read().decode().splitlines()
        assert 'icmformer_requests_total{route="/predict",status="200"} 8.0' in told
        assert 'icmformer_predictions_total{kind="mask"} 8.0' in told
        assert sum(line.startswith("icmformer_waiting_requests") for line in told) == 1
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    answered = [line for line in lines if line["message"].startswith("task ")]
    assert len({line["request"] for line in answered}) == 8
    assert all(line["clicks"] == 1 and line["segment_ms"] > 0 for line in answered)
    assert {line["level"] for line in lines} <= {"info", "warning"}
    assert any(line["logger"] == "gunicorn.error" for line in lines)


@pytest.mark.parametrize(
    ("options", "environment", "text"),
    [
        (("--port", "99999"), {}, "--port must be a whole number from 0 to 65535"),
        (("--port", "abc"), {}, "--port must be"),
        (("--workers", "0"), {}, "--workers must be"),
        ((), {"ICMFORMER_WEIGHTS": "nothing-of-that-name"}, "nothing-of-that-name"),
        ((), {"LABEL_STUDIO_URL": "http://[bad"}, "LABEL_STUDIO_URL"),
        ((), {"LOG_LEVEL": "loud"}, "LOG_LEVEL must be"),
        ((), {"LOG_FORMAT": "xml"}, "LOG_FORMAT must be"),
        (("--host", "192.0.2.1"), {}, "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_work_is_told_in_a_line_before_anything_starts(options, environment, text, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run_module("ls_backend", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert "gunicorn" not in done.stderr


def test_check_tells_whether_label_studio_is_there_and_takes_the_token(studio, monkeypatch):
    studio.files |= {"/api/version/": b"{}", "/api/current-user/whoami": b"{}"}

    def check(token):
        monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
        return run_module("ls_backend", "--check")

    assert check("abc").returncode == 0
    studio.token_needed = "Token abc"
    assert check("abc").returncode == 0
    done = check("other")
    assert done.returncode == 1
    assert "is wrong" in done.stdout


RUNTIME = {
    "model.py": """
class LabelStudioMLBase:
    def __init__(self, label_config=""):
        self.label_config, self.kept = label_config, {}
    def set(self, key, value):
        self.kept[key] = value
""",
    "response.py": """
class ModelResponse:
    def __init__(self, predictions, model_version):
        self.predictions = predictions
""",
    "api.py": """
from flask import Flask, request
def init_app(model_class, basic_auth_user=None, basic_auth_pass=None):
    app = Flask("runtime")
    @app.get("/health")
    def health():
        return {"status": "UP"}
    @app.post("/predict")
    def predict():
        body = request.get_json()
        model = model_class(label_config=body["label_config"])
        return {"results": model.predict(body["tasks"], context=body["params"]["context"]).predictions}
    return app
""",
}


def test_the_official_runtimes_way_of_starting_it_works(start, tmp_path, make_backend):
    """`label-studio-ml start ls_backend` runs the folder's _wsgi.py as a script; the runtime itself is played."""
    package = tmp_path / "runtime" / "label_studio_ml"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in RUNTIME.items():
        (package / name).write_text(text)
    port = free_port(0)
    command = [sys.executable, str(ROOT / "ls_backend" / "_wsgi.py"), "--port", str(port), "--log-level", "INFO"]
    server = start(command, port, PYTHONPATH=str(package.parent))
    server.wait_for(f"{server.url}/health", 120)
    request = body(click(40, 40), click(80, 80, positive=False))
    assert ask(server, request)[0]["result"] == make_backend().predict(request).reply["results"][0]["result"]
    assert http.client.responses  # nothing in ls_backend stands in the way of a standard module
