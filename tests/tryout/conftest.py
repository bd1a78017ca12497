"""The page's server on a port of its own, and what a browser, or something worse, may send it."""

import contextlib
import http.client
import json
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest
from skimage import data

from icmformer.images.masks import write_image
from icmformer.tryout.photos import Photos
from icmformer.tryout.server import PageServer
from icmformer.tryout.site import Site
from tests.engines import engine


class Served:
    """A server in a thread of this process."""

    def __init__(self, of, photos, host="127.0.0.1"):
        self.server = PageServer(host, 0)
        self.server.site = Site(of, photos, "starter")
        self.server.server_activate()
        self.root = urlsplit(self.server.address).path
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def ask(self, method, path="", body=None, headers=(), root=None):
        """Status, headers and body of the reply; a dict is sent as the page sends JSON."""
        sent = dict(headers)
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            sent = {"Content-Type": "application/json", **sent}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, (self.root if root is None else root) + path, body, sent)
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()

    def json(self, method, path, body=None):
        """The reply's JSON, of a request that is answered."""
        status, _, content = self.ask(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def refusal(self, *request, **more):
        """Status and sentence of a request that is not."""
        status, headers, content = self.ask(*request, **more)
        assert headers["Content-Type"] == "application/json"
        said = json.loads(content)["error"]
        assert "\n" not in said
        assert "Traceback" not in said
        return status, said

    def drop(self, name, content):
        """What the page sends of a dropped file: the request."""
        return "POST", f"photos?name={name}", content, {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Two photos, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    write_image(folder / "coffee.png", data.coffee())
    write_image(folder / "chelsea.png", data.chelsea())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff but no photo")
    return folder


def photos_of(folder, *names):
    return Photos([folder / name for name in names], 100_000_000, 1 << 20)  # room for none: the last one is kept


@pytest.fixture(scope="session")
def served(folder):
    """For tests that leave it as it was."""
    made = Served(engine("fast"), photos_of(folder, "coffee.png", "chelsea.png", "broken.jpg"))
    yield made
    made.stop()


@pytest.fixture
def own(folder):
    """Starts servers that end with the test: `own(ENGINE, "coffee.png")`."""
    made = []

    def start(of, *names, **more):
        made.append(Served(of, photos_of(folder, *names), **more))
        return made[-1]

    yield start
    for each in made:
        each.stop()


def mask_of(reply, shape):
    """(H, W) bool of the runs in a reply, drawn one by one."""
    mask = np.zeros(shape, bool)
    for row, start, stop in np.array(reply["runs"], int).reshape(-1, 3):
        assert start < stop
        assert not mask[row, start:stop].any()
        mask[row, start:stop] = True
    return mask
