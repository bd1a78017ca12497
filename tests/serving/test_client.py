"""Which way requests to a CVAT function take."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icmformer.serving.client import ServerError, asker, model_of
from tests.doctor import nobody


class _Function(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        content = json.dumps({"shapes": [], "asked": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Icmformer-Model", "starter")
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Function)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_function_on_this_machine_is_asked_without_the_proxy(url, host, monkeypatch):
    monkeypatch.setenv("http_proxy", nobody())
    here = url.replace("127.0.0.1", host)
    assert asker(here)({"image": ""})["shapes"] == []
    assert model_of(here) == "starter"


def test_a_public_one_is_asked_through_it(url, monkeypatch):
    monkeypatch.setenv("http_proxy", url)
    assert asker("http://93.184.216.34/x")({"image": ""})["asked"] == "http://93.184.216.34/x"
    monkeypatch.setenv("http_proxy", nobody())
    with pytest.raises(ServerError):
        asker("http://93.184.216.34/x")({"image": ""})
