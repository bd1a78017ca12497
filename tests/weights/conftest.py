"""Weights in the native form, and a server to fetch them from."""

import http.server
import threading
from functools import partial

import pytest
from safetensors.torch import save_file

from icmformer import weights
from icmformer.models import build_network

NAME = "icmformer_vit_tiny224"


@pytest.fixture(scope="module")
def network():
    return build_network(NAME)


@pytest.fixture
def native(network, tmp_path):
    return weights.save(tmp_path / "mine", NAME, network.state_dict(), "mine", {"data": "none"})


@pytest.fixture
def server(network, tmp_path):
    folder = tmp_path / "www"
    folder.mkdir()
    save_file(network.state_dict(), folder / "net.safetensors")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder / "net.safetensors"
        httpd.shutdown()
        thread.join()
