"""A server that hands out images as Label Studio does, and a backend that fetches from it."""

import base64
import contextlib
import io
import json
import logging.config
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from PIL import Image
from skimage import data

from icmformer import LoadedImage
from icmformer.fetching.addresses import Policy, Site
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.label_studio import LabelStudio
from icmformer.fetching.proxies import DIRECT
from icmformer.inference.cache import ByteLRU
from icmformer.serving.logs import log_config
from icmformer.serving.queue import RequestQueue
from ls_backend.app import create_app
from ls_backend.backend import Backend
from ls_backend.images import Images
from ls_backend.settings import BackendSettings

LEGACY = "0123456789abcdef"
PERSONAL = "aaa.bbb.ccc"
BRUSH = """<View><Image name="image" value="$image"/>
<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cat"/><Label value="Cup"/></KeyPointLabels>
<RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/><Label value="Cup"/></RectangleLabels>
<BrushLabels name="brush" toName="image"><Label value="Cat"/><Label value="Cup"/></BrushLabels></View>"""
UNIFIED = """<View><Image name="image" value="$image"/>
<Labels name="labels" toName="image"><Label value="Cat"/></Labels>
<KeyPoint name="kp" toName="image" smart="true" smartOnly="true"/><Brush name="brush" toName="image"/></View>"""
POLYGON = BRUSH.replace("BrushLabels", "PolygonLabels").replace('"brush"', '"polygon"')
SEVERAL = """<View><Image name="left" value="$left"/><Image name="right" valueList="$pages"/>
<KeyPointLabels name="kpl" toName="left" smart="true"><Label value="Cat"/></KeyPointLabels>
<BrushLabels name="brushl" toName="left"><Label value="Cat"/></BrushLabels>
<KeyPointLabels name="kpr" toName="right" smart="true"><Label value="Cat"/></KeyPointLabels>
<BrushLabels name="brushr" toName="right"><Label value="Cat"/></BrushLabels></View>"""


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@cache
def picture(name):
    """One of scikit-image's as a file, encoded once."""
    return png(getattr(data, name)())


@cache
def rotated():
    """The cat stored on its side, with the tag that turns it up again: 451 x 300 to be seen, 300 x 451 stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(data.chelsea()).transpose(Image.Transpose.ROTATE_90).save(out, "PNG", exif=exif)
    return out.getvalue()


class Studio(ThreadingHTTPServer):
    """What it serves, and what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {
            "/data/upload/1/cat.png": picture("chelsea"),
            "/data/upload/1/cup.png": picture("coffee"),
            "/data/upload/1/turned.png": rotated(),
            "/data/upload/1/two words ü.png": picture("chelsea"),
            "/data/local-files/?d=shelf/cat.png": picture("chelsea"),
            "/data/upload/1/late.png": picture("chelsea"),
            "/data/upload/1/text.png": b"no image at all",
            "/data/upload/1/cut.png": picture("chelsea")[:20000],
            "/bucket/cat.png": picture("chelsea"),
        }
        self.asked = []  # (path, Authorization)
        self.token_needed = None
        self.pause = 0.0  # before late.png
        self.elsewhere = False  # whether the bucket is at another host
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def counts(self, path):
        return sum(asked == path for asked, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        with contextlib.suppress(OSError):  # of who did not wait for it
            self.end_headers()
            self.wfile.write(content)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        right = self.path == "/api/token/refresh/" and body == {"refresh": PERSONAL}
        self.answer(200, json.dumps({"access": "short"}).encode()) if right else self.answer(401)

    def _drip(self, path):
        """A byte now and then, in the headers or in the body, for ever."""
        start = b"HTTP/1.0 200 OK\r\n" if "old" in path else b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
        self.wfile.write(start + (b"X-Slow: " if "headers" in path else b"\r\n"))
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass
        self.close_connection = True

    def do_GET(self):
        studio, path = self.server, unquote(self.path)
        studio.asked.append((path, self.headers.get("Authorization")))
        if studio.token_needed and self.headers.get("Authorization") != studio.token_needed:
            return self.answer(401)
        if path.startswith("/tasks/7/presign/"):
            uri = base64.b64decode(parse_qs(urlsplit(self.path).query)["fileuri"][0]).decode()
            name = uri.rsplit("/", 1)[1]
            host = f"http://storage.example:{studio.server_address[1]}" if studio.elsewhere else ""
            return self.answer(303, Location=f"{host}/bucket/{name}") if name != "none.png" else self.answer(404)
        if path == "/data/upload/1/away.png":
            return self.answer(302, Location="http://169.254.169.254/latest/meta-data")
        if path == "/data/upload/1/circle.png":
            return self.answer(302, Location="/data/upload/1/circle.png")
        if path.startswith("/drip/"):
            return self._drip(path)
        if path == "/data/upload/1/page.png":
            return self.answer(200, b"<html>log in</html>", **{"Content-Type": "text/html; charset=utf-8"})
        if path == "/data/upload/1/short.png":
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Length", "99999")
            self.end_headers()
            return self.wfile.write(picture("chelsea")[:5000])
        if path == "/data/upload/1/out.png":
            return self.answer(302, Location="/elsewhere/x.png")
        if path == "/data/upload/1/slow.png":
            time.sleep(6)
        if path == "/data/upload/1/late.png":
            time.sleep(studio.pause)
        if path == "/data/upload/1/endless.png":
            self.send_response(200)
            self.end_headers()
            for _ in range(400):
                try:
                    self.wfile.write(b"x" * (1 << 20))
                except OSError:
                    return None
            return None
        content = studio.files.get(path) or studio.files.get(path.partition("?")[0])
        return self.answer(404) if content is None else self.answer(200, content)


@pytest.fixture
def studio():
    server = Studio()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def make_images(tmp_path, studio):
    """Makes an image loader for the studio; options as in the settings."""

    def make(
        token="",
        allowed=(),
        seconds=2.0,
        limit=4 << 20,
        url=None,
        max_pixels=10**6,
        files=1 << 26,
        aliases=(),
        proxies=DIRECT,
    ):
        home = studio.url if url is None else url
        policy = Policy.for_home(home, allowed, proxies)
        label_studio = LabelStudio(home, token, policy, seconds, limit, [Site.of(alias) for alias in aliases])
        return Images(label_studio, FileCache(tmp_path / "files", files), ByteLRU(1 << 26), max_pixels)

    return make


@pytest.fixture
def make_backend(fast, make_images):
    def make(places=1, queue=8, seconds=5.0, **options):
        return Backend(fast, make_images(**options), RequestQueue(places, queue, seconds), 200)

    return make


@pytest.fixture
def make_client(make_backend):
    def make(settings=None, **options):
        return create_app(make_backend(**options), settings or BackendSettings(max_body_bytes=8 << 20)).test_client()

    return make


@pytest.fixture
def server_log():
    """Logs as a server is set up to write them, in text; `.getvalue()` is what came so far."""
    root, out = logging.getLogger(), io.StringIO()
    kept, level = root.handlers[:], root.level
    config = log_config(logging.INFO, "text")
    config["handlers"]["stderr"]["stream"] = out
    logging.config.dictConfig(config)
    yield out
    root.handlers[:] = kept
    root.setLevel(level)


@pytest.fixture
def client(make_client):
    return make_client()


def click(x, y, positive=True, identity=None, label="Cat", size=(451, 300), **other):
    """A click as Label Studio's page sends it; `positive` None leaves it unsaid."""
    item = {
        "type": "keypointlabels",
        "id": identity or f"id{x}{y}{positive}",
        "from_name": "kp",
        "to_name": "image",
        "origin": "manual",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "is_positive": positive,
        "value": {"x": x, "y": y, "width": 0.2, "labels": [label], "keypointlabels": [label]},
        **other,
    }
    if positive is None:
        del item["is_positive"]
    return item


def body(*items, image="/data/upload/1/cat.png", config=BRUSH, task=7, **fields):
    """A request as Label Studio sends it."""
    return {
        "tasks": [{"id": task, "data": {"image": image, **fields}, "annotations": []}],
        "project": "1.1700000000",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(items)} if items else None},
    }


@pytest.fixture
def cat():
    return LoadedImage.from_array(data.chelsea())
