"""The local server, as its command starts it."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from skimage import data

from demo.studio import free_port
from icmformer import Box, Click, LoadedImage
from icmformer.cli.main import main as icmformer_command
from tests.commands import run_module
from tests.conftest import ROOT
from tests.doctor import nobody
from tests.serverless.conftest import coded, payload, points_of
from training.evaluate import main as evaluate

CAT = coded(data.chelsea())
ODD = """
import os, time
def handler(context, event):
    body = event.body if isinstance(event.body, dict) else {}
    if body.get("touch"):
        with open(body["touch"], "w") as file:
            file.write(str(os.getpid()))
    if body.get("sleep"):
        time.sleep(body["sleep"])
    if body.get("die"):
        os._exit(3)
    if body.get("fail"):
        raise ValueError("on purpose")
    return {"kind": type(event.body).__name__, "pid": os.getpid(), "type": event.content_type}
"""


class Server:
    def __init__(self, folder, *options):
        self.port = free_port(0)
        self.url = f"http://127.0.0.1:{self.port}/"
        command = [sys.executable, "-m", "icmformer", "serve", "cvat", "--port", str(self.port), *options]
        self.log = folder / "local.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(folder)}
            )
        deadline = time.monotonic() + 120
        while "serving on" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def post(self, body, content_type="application/json"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        call = urllib.request.Request(self.url, content, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(call, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (urllib.error.URLError, ConnectionError, http.client.HTTPException):
            return 0, b""  # broken off

    def stop(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start(tmp_path):
    servers = []

    def run(*options):
        servers.append(Server(tmp_path, *options))
        return servers[-1]

    yield run
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def function(tmp_path_factory):
    """The function with the starter, for tests that leave it as it was."""
    server = Server(tmp_path_factory.mktemp("function"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def odd(start, tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    return lambda *options: start("--handler", "odd:handler", *options)


def test_clicks_get_the_engines_masks_and_ctrl_c_ends_it(start, fast):
    server = start()
    status, reply = server.post(payload(CAT, [(170.5, 120.5)], [(20, 20)]))
    assert status == 200
    image = LoadedImage.from_bytes(base64.b64decode(CAT))
    expected = fast.segment(image, [Click(170.5, 120.5), Click(20, 20, False)], ordered=False).mask
    found = decode_mask(points_of(json.loads(reply)), image_width=451, image_height=300)
    np.testing.assert_array_equal(found, expected)
    status, reply = server.post(payload("@@", [(1, 1)]))
    assert (status, json.loads(reply)["kind"]) == (400, "bad request")
    assert server.stop() == 0
    log = server.log.read_text()
    assert "stopped" in log
    assert "Traceback" not in log


def test_the_command_line_asks_a_function(function, tmp_path, fast, capsys):
    photo, mask = tmp_path / "cat.png", tmp_path / "mask.png"
    Image.fromarray(data.chelsea()).save(photo)
    clicks = ["--click", "170.5,120.5", "--negative", "20,20", "--box", "60,30,400,290"]
    assert icmformer_command(["segment", str(photo), *clicks, "--server", function.url, "-o", str(mask)]) == 0
    prompt = [Click(170.5, 120.5), Click(20, 20, False)], Box(60, 30, 400, 290)
    expected = fast.segment(data.chelsea(), *prompt, ordered=False).mask
    np.testing.assert_array_equal(np.asarray(Image.open(mask)) > 0, expected)
    assert f"{expected.sum():,} pixels" in capsys.readouterr().out
    for options, text in (
        (["--click", "9000,1"], "answered 400"),
        ([], "the prompt is empty"),
        (["--click", "1,1", "--profile", "exact"], "--profile cannot be combined with --server"),
    ):
        assert icmformer_command(["segment", str(photo), *options, "--server", function.url, "-o", str(mask)]) == 2
        assert text in capsys.readouterr().err
    options = ["--negative", "20,20", "--server", function.url, "-o", str(mask)]
    assert icmformer_command(["segment", str(photo), *options]) == 0
    assert "the mask is empty" in capsys.readouterr().out


def test_a_deployed_function_is_evaluated_with_what_cvat_sends(function, tmp_path, capsys):
    """The same figures and masks as the engine's own as-served play."""
    pairs = tmp_path / "pairs"
    truth = np.zeros((300, 451), np.uint8)
    truth[100:200, 120:300] = 255
    for folder, picture in (("images", data.chelsea()), ("masks", truth)):
        (pairs / folder).mkdir(parents=True)
        Image.fromarray(picture).save(pairs / folder / "cat.png")
    common = ["--dataset", "folder", "--root", str(pairs), "--all-clicks"]
    assert evaluate([*common, "--server", function.url, "--out", str(tmp_path / "far")]) == 0
    assert function.url in capsys.readouterr().out
    assert "starter" in json.loads((tmp_path / "far" / "results.json").read_text())["model"]
    near = ["--as-served", "unordered", "--profile", "fast", "--out", str(tmp_path / "near")]
    assert evaluate([*common, *near]) == 0
    far, near = (
        json.loads((tmp_path / name / "objects.jsonl").read_text().splitlines()[1]) for name in ("far", "near")
    )
    assert len(far["masks"]) == 20
    for key in ("clicks", "ious", "masks"):
        assert far[key] == near[key]
    assert evaluate([*common, "--server", nobody(), "--out", str(tmp_path / "down")]) == 2
    assert "did not answer as a CVAT function does" in capsys.readouterr().err
    for address in ("8080", "http://127.0.0.1:abc/"):
        assert evaluate([*common, "--server", address, "--out", str(tmp_path / "odd")]) == 2
    assert evaluate([*common, "--server", function.url, "--weights", "starter", "--out", str(tmp_path / "y")]) == 2
    assert evaluate([*common, "--server", function.url, "--box", "none", "--out", str(tmp_path / "x")]) == 2


def test_bodies_are_parsed_for_the_exact_content_type_alone(odd):
    server = odd()
    for body, content_type, kind in (
        ({}, "application/json", "dict"),
        ({}, "application/json; charset=utf-8", "bytes"),
        ({}, "text/plain", "bytes"),
        (b"{", "application/json", "bytes"),
    ):
        status, reply = server.post(body, content_type)
        assert (status, json.loads(reply)["kind"], json.loads(reply)["type"]) == (200, kind, content_type)
    with urllib.request.urlopen(server.url + "__internal/health", timeout=5) as reply:
        assert reply.status == 200


def test_a_body_over_the_limit_is_a_400(odd):
    server = odd("--max-body-mb", "0.01")
    assert server.post(b"x" * 9000)[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "20000")
    connection.endheaders()
    assert connection.getresponse().status == 400  # told before the body is sent
    assert server.post(b"x" * (8 << 20))[0] == 400  # and to those who send on
    for length in ("\u00b2", "9" * 5000, "-1"):
        with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
            raw.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode("latin-1"))
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert "Traceback" not in server.log.read_text()


def working(server, file, seconds):
    """A thread whose event a worker has begun and works on for so long; `file` then has the worker's pid."""
    thread = threading.Thread(target=server.post, args=({"sleep": seconds, "touch": str(file)},))
    thread.start()
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return thread


def test_stopping_does_not_wait_for_a_click_nor_start_anything(odd, tmp_path):
    server = odd()
    thread = working(server, tmp_path / "begun", 40)
    begin = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    assert time.monotonic() - begin < 20
    thread.join(10)
    assert not thread.is_alive()
    assert "starting another" not in server.log.read_text()


def test_one_event_at_a_time_in_a_worker_and_503_for_who_waits_too_long(odd, tmp_path):
    server = odd("--worker-wait", "0.1", "--workers", "2")
    threads = [working(server, tmp_path / f"pid {n}", 6) for n in range(2)]
    assert (tmp_path / "pid 0").read_text() != (tmp_path / "pid 1").read_text()
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(server.url, timeout=60)
    assert error.value.code == 503
    assert int(error.value.headers["Retry-After"]) > 0
    for thread in threads:
        thread.join()
    assert server.post({})[0] == 200


def test_a_worker_that_takes_too_long_or_dies_is_replaced(odd):
    server = odd("--event-timeout", "3", "--worker-wait", "20")
    first = json.loads(server.post({})[1])["pid"]
    status, reply = server.post({"sleep": 30})
    assert (status, json.loads(reply)) == (408, {"error": "handler timed out"})
    second = json.loads(server.post({})[1])["pid"]
    assert server.post({"die": True})[0] == 500
    third = json.loads(server.post({})[1])["pid"]
    assert len({first, second, third}) == 3
    assert server.post({"fail": True})[0] == 500
    assert json.loads(server.post({})[1])["pid"] == third  # an exception ends no worker
    assert server.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("size", [10, 8 << 20])
def test_a_worker_that_is_frozen_between_events_is_replaced(odd, size):
    """A message larger than the pipe's buffer waits for its reader, which must not be for ever."""
    server = odd("--event-timeout", "2", "--worker-wait", "20")
    frozen = json.loads(server.post({})[1])["pid"]
    os.kill(frozen, signal.SIGSTOP)
    begin = time.monotonic()
    status, reply = server.post(b"x" * size)
    assert (status, json.loads(reply)) == (408, {"error": "handler timed out"})
    assert 2 <= time.monotonic() - begin < 10
    status, reply = server.post(b"x" * size)
    assert status == 200
    assert json.loads(reply)["pid"] != frozen
    assert not Path(f"/proc/{frozen}").exists()
    assert server.stop(signal.SIGTERM) == 0


def test_a_frozen_worker_does_not_keep_the_server_from_ending(odd):
    server = odd("--event-timeout", "60")
    os.kill(json.loads(server.post({})[1])["pid"], signal.SIGSTOP)
    thread = threading.Thread(target=server.post, args=(b"x" * (8 << 20),))
    thread.start()
    time.sleep(0.5)
    assert server.stop(signal.SIGTERM) == 0
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--workers", "0"), "--workers starts at 1"),
        (("--port", "70000"), "--port must be a whole number"),
        (("--host", "192.0.2.1"), "--port names another"),
        (("--handler", "nothing:handler"), "ended while it started"),
    ],
)
def test_what_cannot_work_is_told(options, text):
    done = run_module("serverless.local", "--port", "0", *options)
    assert done.returncode == 2
    assert text in done.stderr


def scraped(server):
    with urllib.request.urlopen(f"{server.url}metrics", timeout=30) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        families = text_string_to_metric_families(reply.read().decode())
        return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_whichever_worker_is_asked_the_metrics_tell_of_all(start, tmp_path, monkeypatch):
    """Read by prometheus-client's own parser."""
    monkeypatch.setenv("ICMFORMER_CLICK_LOG", str(tmp_path / "clicks.jsonl"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "of the server"))
    (tmp_path / "of the server").mkdir()
    server = start("--workers", "2")
    threads = [
        threading.Thread(target=server.post, args=(payload(CAT, [(170.5, 120.5)], [(20, n)]),)) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.post(payload("@@", [(1, 1)]))
    server.post(payload(CAT))
    told = [scraped(server) for _ in range(4)]
    for values in told:
        assert values["icmformer_requests_total", ("route", "/"), ("status", "200")] == 7
        assert values["icmformer_requests_total", ("route", "/"), ("status", "400")] == 1
        assert values["icmformer_errors_total", ("kind", "bad request")] == 1
        assert values["icmformer_predictions_total", ("kind", "mask")] == 6
        assert values["icmformer_predictions_total", ("kind", "nothing clicked")] == 1
        assert values["icmformer_request_clicks_sum",] == 12
        looked = [values[f"icmformer_cache_{name}_total", ("cache", "images")] for name in ("hits", "misses")]
        assert sum(looked) == 7
        assert 2 <= looked[1] <= 3  # once in each worker that was asked, and what was no image
        assert [v for (name, *_), v in values.items() if name == "icmformer_model"] == [1]
    assert server.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "clicks.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert {line["tool"] for line in lines} == {"cvat"}
    assert not list((tmp_path / "of the server").glob("icmformer-metrics-*"))
