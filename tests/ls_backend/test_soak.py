"""Eight clients at once against a real server, for a minute; and a server that is killed while they click."""

import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from skimage import data

from demo.studio import Process, free_port
from tests.ls_backend.conftest import body, click, png

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SECONDS = float(os.environ.get("ICMFORMER_SOAK_SECONDS", "60"))
CLIENTS = 8
PHOTOS = ("chelsea", "coffee", "astronaut", "rocket", "coins", "camera", "moon", "clock")


@pytest.fixture
def server(studio, tmp_path):
    """The backend as `icmformer serve label-studio` starts it."""
    for name in PHOTOS:
        studio.files[f"/data/upload/1/{name}.png"] = png(getattr(data, name)())
    port = free_port(0)
    environment = {
        "LABEL_STUDIO_URL": studio.url,
        "ICMFORMER_CACHE_DIR": str(tmp_path),
        "ICMFORMER_STATE_CACHE_MB": "16",
        "ICMFORMER_FEATURE_CACHE_MB": "64",
        "ICMFORMER_IMAGE_CACHE_MB": "64",
    }
    process = Process(
        "the backend",
        [sys.executable, "-m", "icmformer", "serve", "label-studio", "--port", str(port)],
        environment,
        tmp_path / "backend.log",
    )
    process.url = f"http://127.0.0.1:{port}"
    process.start()
    process.wait_for(f"{process.url}/health", 120)
    yield process
    process.stop()


def requests_on(name, seed):
    """Three requests of one object, each with a click more."""
    height, width = getattr(data, name)().shape[:2]
    items = [
        click(
            30 + 5 * n + seed % 7,
            60 - 4 * n + seed % 5,
            positive=n != 1,
            size=(width, height),
            identity=f"{name}{seed}-{n}",
        )
        for n in range(3)
    ]
    return [body(*items[: n + 1], image=f"/data/upload/1/{name}.png", task=seed) for n in range(3)]


def ask(server, request):
    call = urllib.request.Request(
        f"{server.url}/predict", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(call, timeout=60) as reply:
        return json.loads(reply.read())["results"]


def memory(process):
    """Bytes held by the server's processes."""
    children = Path(f"/proc/{process.child.pid}/task/{process.child.pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (process.child.pid, *children))
    return pages * os.sysconf("SC_PAGESIZE")


def run_clients(server, expected, until, on_error):
    """Each client clicks on a photo of its own until told otherwise; returns how many answers were right."""
    right, wrong = [0] * CLIENTS, []

    def client(number):
        turn = 0
        while not until():
            seed = number * 100 + turn % 3
            for step, request in enumerate(requests_on(PHOTOS[number], seed)):
                try:
                    answer = ask(server, request)
                except (OSError, http.client.HTTPException) as error:
                    on_error(error)
                    time.sleep(0.1)
                    continue
                if answer == expected[seed][step]:
                    right[number] += 1
                else:
                    wrong.append((seed, step))
            turn += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    return right


@pytest.fixture
def expected(server):
    """What a single client is answered."""
    seeds = [number * 100 + turn for number in range(CLIENTS) for turn in range(3)]
    return {seed: [ask(server, r) for r in requests_on(PHOTOS[seed // 100], seed)] for seed in seeds}


def test_eight_clients_get_the_answers_of_one_and_memory_stays_flat(server, expected):
    errors = []
    started = time.monotonic()
    run_clients(server, expected, lambda: time.monotonic() - started > SECONDS / 4, errors.append)
    before, again = memory(server), time.monotonic()
    right = run_clients(server, expected, lambda: time.monotonic() - again > SECONDS * 3 / 4, errors.append)
    assert not errors
    assert min(right) > 0
    assert memory(server) < 1.1 * before
    log = server.log.read_text()
    assert "Traceback" not in log


def test_a_killed_and_restarted_server_loses_nothing_but_what_was_under_way(server, expected):
    errors, started = [], time.monotonic()
    done = threading.Event()

    def kill_and_restart():
        time.sleep(3)
        os.killpg(server.child.pid, signal.SIGKILL)
        server.child.wait()
        server.start()
        server.wait_for(f"{server.url}/health", 120)
        time.sleep(3)
        done.set()

    killer = threading.Thread(target=kill_and_restart)
    killer.start()
    right = run_clients(server, expected, done.is_set, errors.append)
    killer.join()
    assert errors  # those under way, and those that came while it was down
    assert not any(isinstance(e, urllib.error.HTTPError) for e in errors)
    assert min(right) > 0
    assert time.monotonic() - started < 200
    for number in range(CLIENTS):
        assert ask(server, requests_on(PHOTOS[number], number * 100)[0]) == expected[number * 100][0]
