import hashlib
import http.server
import threading

import pytest

from icmformer import weights
from icmformer.errors import WeightsError


def test_fetching_keeps_what_has_the_right_sum(server, monkeypatch, tmp_path):
    url, file = server
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match="not kept"):
        weights.fetch(f"{url}/net.safetensors", "0" * 64)
    assert not list((tmp_path / "cache").rglob("*.*"))
    steps = []
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    path = weights.fetch(f"{url}/net.safetensors", digest, lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == file.read_bytes()
    assert steps[-1] == (file.stat().st_size,) * 2
    assert weights.load("net").path == path


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/w.pth",
        "file:///etc/passwd",
        "ftp://h/w.pth",
        "https://[::1/w.pth",
        "https://h:x/w.pth",
        "https://h/page.html",
    ],
)
def test_other_addresses_are_not_fetched(url):
    with pytest.raises(WeightsError, match=r"https only|must end in|not an address"):
        weights.fetch(url)


def test_a_redirect_to_where_the_first_address_could_not_lead_is_refused(monkeypatch, tmp_path):
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.2:{self.server.server_port}/net.safetensors")
            self.end_headers()

        def log_message(self, *args):
            pass

    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        with pytest.raises(WeightsError, match="https only"):
            weights.fetch(f"http://127.0.0.1:{httpd.server_port}/net.safetensors")
        httpd.shutdown()
        thread.join()


def test_a_failed_fetch_leaves_nothing(server, monkeypatch, tmp_path):
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match="cannot fetch"):
        weights.fetch(f"{server[0]}/missing.pth")
    assert not list((tmp_path / "cache").rglob("*.*"))
