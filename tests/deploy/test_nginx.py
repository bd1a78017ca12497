"""deploy/nginx: what the files say, and a real nginx with them before stand-ins for backends, where there is nginx."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gunicorn.config import Keepalive

from demo.studio import free_port
from ls_backend.settings import BackendSettings
from tests.deploy.manifests import DEPLOY
from tests.deploy.nginx import SERVER, Nginx


def directives(name):
    """Those of one line, without comments, by name."""
    lines = (line.strip() for line in (DEPLOY / "nginx" / name).read_text().splitlines())
    found = {}
    for line in lines:
        if line.endswith(";") and not line.startswith("#"):
            key, _, value = line[:-1].partition(" ")
            found.setdefault(key, []).append(value)
    return found


def test_limits_fit_the_backends_own():
    proxy, backend = directives("proxy.conf"), BackendSettings()
    assert proxy["client_max_body_size"] == [f"{backend.max_body_bytes >> 20}m"]
    (seconds,) = (int(value.removesuffix("s")) for value in proxy["proxy_read_timeout"])
    assert seconds > backend.queue_seconds + backend.fetch_seconds
    assert proxy["proxy_next_upstream"] == ["error timeout http_503 non_idempotent"]
    assert proxy["proxy_next_upstream_tries"] == ["3"]
    assert proxy["proxy_http_version"] == ["1.1"]


def test_nginx_closes_an_idle_connection_before_a_backend_does():
    (seconds,) = (int(value.removesuffix("s")) for value in directives("nginx.conf")["keepalive_timeout"])
    assert 0 < seconds < Keepalive.default  # the backend leaves gunicorn's default as it is


def test_the_server_list_is_apart_from_the_rest():
    main = directives("nginx.conf")
    assert main["include"] == ["proxy.conf"]
    assert main["server"] == [SERVER.removeprefix("server ").removesuffix(";")]
    assert main["listen"] == ["9090"]
    assert not any(name.startswith("proxy_set") or name.startswith("proxy_next") for name in main)
    assert "server" not in directives("proxy.conf")
    temporary = [value for name, values in main.items() if name.endswith("temp_path") for value in values]
    assert len(temporary) == 5
    assert all(path.startswith("/tmp/") for path in [*temporary, *main["pid"]])  # the container's root is read-only


class Backend(ThreadingHTTPServer):
    """Answers with what it got, or says that it is busy."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, busy):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.busy, self.asked = busy, []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, body))
        self.send_response(503 if self.server.busy else 200)
        if self.server.busy:
            self.send_header("Retry-After", "2")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST


@pytest.fixture
def balance(tmp_path):
    """Starts nginx before backends, given as True for busy, False for free and None for gone; gives (ask, backends)."""
    running, backends = [], []

    def start(*states):
        backends.extend(None if state is None else Backend(state) for state in states)
        ports = [backend.server_address[1] if backend else free_port(0) for backend in backends]
        running.append(Nginx(tmp_path, ports))
        return ask, backends

    def ask(method, path, body=b""):
        connection = http.client.HTTPConnection("127.0.0.1", running[0].port, timeout=30)
        connection.request(method, path, body, {"Content-Length": str(len(body))})
        reply = connection.getresponse()
        answer = reply.status, dict(reply.getheaders()), reply.read()
        connection.close()
        return answer

    yield start
    for nginx in running:
        nginx.stop()
    for backend in filter(None, backends):
        backend.shutdown()
        backend.server_close()


def test_a_click_that_meets_a_busy_backend_is_asked_elsewhere(balance):
    ask, (busy, free) = balance(True, False)
    body = b"x" * 300_000  # over the buffer: kept on the disk, and sent whole again
    assert [ask("POST", "/predict", body)[::2] for _ in range(6)] == [(200, body)] * 6
    assert ("/predict", body) in busy.asked
    assert free.asked.count(("/predict", body)) == 6


def test_a_click_that_meets_one_that_is_gone_is_asked_elsewhere(balance):
    ask, (_, _, free) = balance(None, None, False)
    assert [ask("POST", "/predict", b"click")[0] for _ in range(6)] == [200] * 6
    assert free.asked.count(("/predict", b"click")) == 6


def test_where_all_are_busy_the_last_answer_counts(balance):
    ask, backends = balance(True, True, True, True)
    for backend in backends:
        backend.asked.clear()
    for _ in range(5):  # none is set aside for being busy, which would make it a 502
        status, headers, _ = ask("POST", "/predict", b"click")
        assert (status, headers["Retry-After"]) == (503, "2")
    assert sum(len(backend.asked) for backend in backends) == 5 * 3
    backends[0].busy = False
    statuses = [ask("POST", "/predict", b"click")[0] for _ in range(8)]
    assert 200 in statuses


def test_what_a_backend_would_refuse_does_not_reach_it(balance):
    ask, (backend,) = balance(False)
    backend.asked.clear()
    try:
        status = ask("POST", "/predict", b"x" * (BackendSettings().max_body_bytes + 1))[0]
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # refused by its length before all of it was sent
    assert status == 413
    assert ask("GET", "/metrics")[0] == 404
    assert backend.asked == []
