"""Eight clients, five hundred photos, one worker: no wrong mask, and memory that stays where it is.

A minute by default; ICMFORMER_SOAK_SECONDS=600 is the whole of it.
"""

import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from skimage import data, transform

from icmformer import Caches, Engine
from icmformer.inference.cache import NullCache
from serverless.interactor import CVATCodec, Interactor
from serverless.settings import FunctionSettings
from tests.conftest import TRAINED
from tests.serverless.conftest import coded, payload
from tests.serverless.test_local import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SECONDS = float(os.environ.get("ICMFORMER_SOAK_SECONDS", "60"))
PHOTOS, CLIENTS, CHECKED = 500, 8, 40
LIMIT = 1.2e9  # bytes of the worker


@pytest.fixture(scope="module")
def photos():
    """Photos of 0.8 megapixels, all different, as CVAT sends them."""
    shots = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")]
    large = [(transform.resize(shot, (800, 1000)) * 255).astype(np.uint8) for shot in shots]
    made = []
    for number in range(PHOTOS):
        photo = np.roll(large[number % len(large)], 13 * number, axis=1)
        made.append(coded(photo[:, ::-1] if number // 5 % 2 else photo, "JPEG", quality=85))
    return made


def clicks_on(number, count):
    """The clicks of a photo's object: two on it, one off."""
    draw = random.Random(number)
    points = [(draw.uniform(100, 900), draw.uniform(100, 700)) for _ in range(3)]
    return [points[0], points[2]][: max(1, count - 1)], [points[1]][: max(0, count - 1)]


def resident(pid):
    """Bytes held by the largest of a process and its children: by the worker, of a server with one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = max(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (pid, *children))
    return pages * os.sysconf("SC_PAGESIZE")


def test_a_worker_keeps_its_memory_and_its_answers(photos, tmp_path):
    engine = Engine.from_weights(TRAINED, profile="fast", caches=Caches())  # keeps nothing: what is right
    right = Interactor(engine, CVATCodec(FunctionSettings(), NullCache()))
    known: dict[tuple[int, int], bytes] = {}
    for number in random.Random(0).sample(range(PHOTOS), CHECKED):
        for count in (1, 2, 3):
            known[number, count] = right.respond(payload(photos[number], *clicks_on(number, count))).reply
    server = Server(tmp_path)
    started, served, wrong = time.monotonic(), [0] * CLIENTS, []
    lock = threading.Lock()

    def client(place):
        draw = random.Random(place)
        while time.monotonic() - started < SECONDS and not wrong:
            number = draw.randrange(PHOTOS)
            for count in (1, 2, 3):
                try:
                    status, body = server.post(payload(photos[number], *clicks_on(number, count)))
                except Exception as error:
                    status, body = repr(error), b""
                with lock:
                    if status != 200 or known.setdefault((number, count), body) != body:
                        wrong.append((status, number, count))
            served[place] += 1

    threads = [threading.Thread(target=client, args=(place,)) for place in range(CLIENTS)]
    for thread in threads:
        thread.start()
    held = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        held.append((sum(served), resident(server.process.pid)))
    for thread in threads:
        thread.join()
    assert server.stop() == 0
    assert not wrong
    assert all(served), "every client was served"
    sizes = [size for _, size in held]
    print(f"{sum(served)} photos in {SECONDS:.0f} s, at most {max(sizes) / 1e6:.0f} MB")
    assert max(sizes) < LIMIT
    third, last = ([size for done, size in held if low < done / sum(served) <= low + 0.25] for low in (0.5, 0.75))
    if sum(served) > 2 * PHOTOS:  # every cache is full by then; single requests come and go with tens of megabytes
        assert np.median(last) < 1.02 * np.median(third)
