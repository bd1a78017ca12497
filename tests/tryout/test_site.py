"""Dropped photos, parts of photos, faults, and the end of the server."""

import json
import threading
from urllib.parse import quote

import cv2
import numpy as np
from skimage import data

from icmformer import Click
from icmformer.errors import DeviceMemoryError
from icmformer.images.masks import write_image
from icmformer.tryout import photos as photos_module
from tests.engines import engine
from tests.tryout.conftest import mask_of

CLICK = {"clicks": [{"x": 300, "y": 200, "positive": True}]}


def test_a_name_of_a_dropped_file_is_a_name_alone(own, folder):
    server = own(engine("fast"), "coffee.png")
    content = (folder / "chelsea.png").read_bytes()
    name = quote(f"{folder}/coffee.png\n\x1b[31m\x00")
    added = json.loads(server.ask(*server.drop(name, content))[2])
    assert (added["number"], added["width"], added["height"]) == (1, 451, 300)
    assert added["name"] == f"{folder}/coffee.png[31m"[-200:]
    assert json.loads(server.ask(*server.drop("", content))[2])["name"] == "photo"
    assert json.loads(server.ask(*server.drop("x" * 999, content))[2])["name"] == "x" * 200


def test_a_dropped_photo_is_clicked_on_and_a_broken_one_is_not_kept(own, folder, fast):
    server = own(engine("fast"), "coffee.png")
    added = json.loads(server.ask(*server.drop("cat.png", (folder / "chelsea.png").read_bytes()))[2])
    assert added == {"number": 1, "name": "cat.png", "width": 451, "height": 300}
    reply = server.json("POST", "photos/1/mask", {"clicks": [{"x": 170.5, "y": 120.5}]})
    expected = fast.segment(data.chelsea(), [Click(170.5, 120.5)]).mask
    np.testing.assert_array_equal(mask_of(reply, (300, 451)), expected)
    status, said = server.refusal(*server.drop("no%20photo.png", b"nothing"))
    assert status == 422
    assert said.startswith("no photo.png: these 7 bytes are not an image")
    assert server.json("GET", "state")["photos"] == ["coffee.png", "cat.png"]


def test_dropped_photos_have_a_limit_together(own, folder, monkeypatch):
    content = (folder / "chelsea.png").read_bytes()
    monkeypatch.setattr(photos_module, "MOST_DROPPED", int(1.5 * len(content)))
    server = own(engine("fast"))
    assert server.ask(*server.drop("a.png", content))[0] == 200
    status, said = server.refusal(*server.drop("b.png", content))
    assert status == 413
    assert "icmformer try PHOTO" in said
    assert server.json("GET", "state")["photos"] == ["a.png"]


class Failing:
    """An engine whose every segment fails."""

    def __init__(self, error):
        self.error, whole = error, engine("fast")
        self.profile, self.weights, self.device, self.arithmetic = (
            whole.profile,
            whole.weights,
            whole.device,
            whole.arithmetic,
        )

    def segment(self, *_args):
        raise self.error


def test_a_fault_of_the_server_is_told_on_its_terminal_alone(own, caplog):
    server = own(Failing(KeyError("a secret")), "coffee.png")
    status, said = server.refusal("POST", "photos/0/mask", CLICK)
    assert (status, said) == (500, "the server failed; its terminal says more")
    assert "a secret" in caplog.text


def test_a_device_without_memory_says_so(own):
    server = own(Failing(DeviceMemoryError("the GPU has no memory left; take a smaller network")), "coffee.png")
    assert server.refusal("POST", "photos/0/mask", CLICK) == (503, "the GPU has no memory left; take a smaller network")


def test_a_photo_that_has_gone_is_named_without_its_folder(own, tmp_path, folder):
    write_image(tmp_path / "gone.png", data.coffee())
    server = own(engine("fast"), tmp_path / "gone.png")
    (tmp_path / "gone.png").unlink()
    assert server.refusal("GET", "photos/0") == (422, "gone.png cannot be read: No such file or directory")


def test_photos_are_shown_scaled_and_parts_of_them_as_they_are(own, tmp_path):
    large = np.asarray(cv2.resize(data.coffee(), (4800, 3200)))
    write_image(tmp_path / "large.png", large)
    server = own(engine("fast"), tmp_path / "large.png")

    def shown(query=""):
        status, headers, content = server.ask("GET", f"photos/0/view{query}")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    whole = shown()
    assert whole.shape == (1365, 2048, 3)
    expected = cv2.resize(large, (2048, 1365), interpolation=cv2.INTER_AREA)
    assert np.abs(whole.astype(int) - expected).mean() < 2
    part = shown("?left=1000&top=500&width=640&height=400")
    assert part.shape == (400, 640, 3)
    assert np.abs(part.astype(int) - large[500:900, 1000:1640]).mean() < 2


def test_requests_in_progress_are_waited_for_and_no_more_are_taken(own):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Failing):
        def segment(self, *args):
            begun.set()
            go_on.wait(20)
            return engine("fast").segment(*args)

    server = own(Slow(None), "coffee.png")
    replies = []
    asking = threading.Thread(target=lambda: replies.append(server.ask("POST", "photos/0/mask", CLICK)[0]))
    asking.start()
    assert begun.wait(20)
    ending = threading.Thread(target=server.server.finish, args=(20,))
    ending.start()
    ending.join(0.3)
    assert ending.is_alive()
    assert server.refusal("GET", "state") == (503, "the server is stopping")
    go_on.set()
    ending.join(20)
    asking.join(20)
    assert not ending.is_alive()
    assert replies == [200]
