"""For tests of `icmformer doctor`: runs it, and servers that answer as they are told to."""

import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from icmformer.cli.main import main
from tests.conftest import TINY

FOREIGN = ("ICMFORMER_", "LABEL_STUDIO_", "CVAT_", "BASIC_AUTH_", "CUDA_VISIBLE_DEVICES")


class Server(ThreadingHTTPServer):
    """Answers GET by `routes`: path -> status and JSON; POST by `posts`: path -> these, or what makes them of a body.

    Attributes:
        tokens: What may stand in Authorization; None where nothing is asked for. `public` paths need none.
        exchange: What a POST with a refresh token gets: token -> access token.
        clock: Seconds that its clock is ahead.
    """

    daemon_threads = True

    def __init__(self, routes, tokens=None, public=(), exchange=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes, self.tokens, self.public = dict(routes), tokens, public
        self.exchange, self.clock, self.asked, self.posts = exchange or {}, 0, [], {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_):
        """Callers that have gone are no news."""

    def end(self):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        return super().date_time_string(time.time() + self.server.clock)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path in self.server.posts and self.headers.get("Authorization") in self.server.tokens:
            answer = self.server.posts[self.path]
            return self._say(*(answer(body) if callable(answer) else answer))
        token = body.get("refresh")
        access = self.server.exchange.get(token)
        self._say(200, {"access": access}) if access else self._say(401, {"detail": "no"})

    def do_GET(self):
        server, token = self.server, self.headers.get("Authorization")
        server.asked.append((self.path, token))
        if server.tokens is not None and self.path not in server.public and token not in server.tokens:
            return self._say(401, {"detail": f"Invalid token {token}"})  # a server that quotes what it got
        status, value = server.routes.get(self.path, (404, {"detail": "Not found."}))
        return self._say(status, value)

    def _say(self, status, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@cache
def _taken():
    """A port that nothing listens at, and nothing will while tests run: it is taken."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


def nobody():
    """An address at which nothing listens."""
    return f"http://127.0.0.1:{_taken().getsockname()[1]}"


@dataclass(frozen=True)
class Report:
    code: int
    checks: dict
    output: str

    @property
    def failed(self):
        return [name for name, check in self.checks.items() if check["state"] == "failed"]

    def state(self, name):
        return self.checks[name]["state"]

    def told(self, name):
        """All that a line says."""
        return f"{self.checks[name]['text']} -> {self.checks[name]['advice']}"

    def fails_in(self, line, *texts):
        """Asserts that this line failed, no other did, and all of these texts are in it."""
        assert self.failed == [line]
        assert [text for text in texts if text not in self.told(line)] == [], self.told(line)


def forget_environment(monkeypatch):
    """Of the user's settings the cache folder stays. An untrained network on torch, on the CPU, starts at once."""
    for name in os.environ:
        if name.startswith(FOREIGN) and name != "ICMFORMER_CACHE_DIR":
            monkeypatch.delenv(name)
    for name, value in (("WEIGHTS", TINY), ("DEVICE", "cpu"), ("RUNTIME", "torch")):
        monkeypatch.setenv(f"ICMFORMER_{name}", value)


def plant(faults, server, monkeypatch):
    """Plants faults: values of environment variables, and what a server answers by path; NOBODY is such an address."""
    for where, what in faults.items():
        if where.startswith("/"):
            (server.posts if where in server.posts else server.routes)[where] = what
        else:
            monkeypatch.setenv(where, what.replace("NOBODY", nobody()))


class Doctor:
    """Runs the command in this process and takes its report apart; none may hold one of the secrets."""

    def __init__(self, capsys, *secrets):
        self._capsys, self._secrets = capsys, secrets

    def __call__(self, *words):
        code = main(["doctor", "--json", *words])
        shown = self._capsys.readouterr()
        report, output = json.loads(shown.out), shown.out + shown.err
        assert not [word for word in ("Traceback", *self._secrets) if word in output]
        assert code == (0 if report["ok"] else 1)
        checks = {check["name"]: check for check in report["checks"]}
        for name, check in checks.items():
            assert "\n" not in check["text"] + check["advice"], name
            assert bool(check["advice"]) or check["state"] in ("ok", "skipped"), f"{name} gives no advice"
        return Report(code, checks, output)
