"""Two and four backends behind nginx: the answers of one, and one of them killed while annotators click."""

import http.client
import json
import os
import signal
import statistics
import sys
import threading
import time
import urllib.error

import pytest
from skimage import data

from demo.studio import Process, free_port
from tests.deploy.nginx import Nginx
from tests.ls_backend.conftest import body, click, png

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CLIENTS, OBJECTS = 8, 16  # two for each: a newer click of an object supersedes the older
PHOTOS = ("chelsea", "coffee", "astronaut", "rocket")


@pytest.fixture
def replicas(studio, tmp_path):
    """Starts backends, each with empty caches of its own."""
    for name in PHOTOS:
        studio.files[f"/data/upload/1/{name}.png"] = png(getattr(data, name)())
    running = []

    def start(count):
        for _ in range(count):
            number, port = len(running), free_port(0)
            environment = {
                "LABEL_STUDIO_URL": studio.url,
                "ICMFORMER_CACHE_DIR": str(tmp_path / f"cache-{number}"),
                "ICMFORMER_THREADS": "1",
            }
            command = [sys.executable, "-m", "icmformer", "serve", "label-studio", "--port", str(port)]
            running.append(Process(f"backend {number}", command, environment, tmp_path / f"backend-{number}.log"))
            running[-1].port = port
            running[-1].start()
        for process in running[-count:]:
            process.wait_for(f"http://127.0.0.1:{process.port}/ready", 120)
        return running[-count:]

    yield start
    for process in running:
        process.stop()


def requests_on(number):
    """Three requests of an object, each with a click more."""
    name = PHOTOS[number % len(PHOTOS)]
    height, width = getattr(data, name)().shape[:2]
    items = [
        click(
            20 + (7 * number + 11 * n) % 60,
            70 - (5 * number + 13 * n) % 50,
            positive=n != 1,
            identity=f"{number}-{n}",
            size=(width, height),
        )
        for n in range(3)
    ]
    return [body(*items[: n + 1], image=f"/data/upload/1/{name}.png", task=number) for n in range(3)]


def ask(port, request):
    """The results; anything but a 200 raises."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/predict", json.dumps(request), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise urllib.error.HTTPError("/predict", reply.status, content.decode(), reply.headers, None)
        return json.loads(content)["results"]
    finally:
        connection.close()


@pytest.mark.parametrize("count", [2, 4])
def test_the_answers_of_one_and_nothing_lost_when_one_is_killed(replicas, tmp_path, count):
    (alone,) = replicas(1)
    right = {n: [ask(alone.port, request) for request in requests_on(n)] for n in range(OBJECTS)}
    alone.stop()
    backends = replicas(count)
    nginx = Nginx(tmp_path, [backend.port for backend in backends])
    served, wrong, lost, over = [], [], [], threading.Event()

    def client(place):
        turn = place
        while not over.is_set():
            number = turn % OBJECTS
            turn += CLIENTS
            for step, request in enumerate(requests_on(number)):
                begin = time.monotonic()
                try:
                    answer = ask(nginx.port, request)
                except (OSError, http.client.HTTPException) as error:
                    lost.append(repr(error))
                    continue
                served.append((begin, time.monotonic() - begin))
                if answer != right[number][step]:
                    wrong.append((number, step))

    clients = [threading.Thread(target=client, args=(place,)) for place in range(CLIENTS)]
    for thread in clients:
        thread.start()
    begun = time.monotonic()
    while time.monotonic() - begun < 12 or len(served) <= 4 * OBJECTS:
        assert time.monotonic() - begun < 240
        time.sleep(0.1)
    killed = time.monotonic()
    os.killpg(backends[0].child.pid, signal.SIGKILL)
    backends[0].child.wait()
    time.sleep(8)
    backends[0].start()  # and it comes back, cold, under the same address
    backends[0].wait_for(f"http://127.0.0.1:{backends[0].port}/ready", 120)
    back = time.monotonic()
    time.sleep(6)
    over.set()
    for thread in clients:
        thread.join()
    nginx.stop()
    assert not wrong
    assert not lost
    usual = [spent for begin, spent in served if begin + spent < killed]
    struck = [spent for begin, spent in served if begin < killed <= begin + spent]
    without = [spent for begin, spent in served if killed <= begin < back]
    failover = max(struck, default=0.0)
    print(
        f"{count} backends, {CLIENTS} clients: {len(served)} answers, none wrong, none lost; median "
        f"{statistics.median(usual):.3f} s before the kill, {statistics.median(without):.3f} s with one less; the "
        f"{len(struck)} under way when it was killed took {failover:.3f} s at most"
    )
    assert len(usual) > 3 * OBJECTS
    assert len(struck) > 0  # somebody's click was under way
    for backend in backends:
        assert "task " in backend.log.read_text()  # all of them served
