"""The two real servers, as their commands start them, and what a test asks of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
from pathlib import Path
from typing import Any

from demo.studio import Process, free_port
from tests.hostile.corpus import JSON_TYPE, LOGIN


class Server:
    """A server in a process of its own, with its log."""

    def __init__(self, name: str, folder: Path, command: list[str], environment: dict[str, str], health: str) -> None:
        self.name, self.port = name, free_port(0)
        self.log = folder / f"{name}.log"
        settings = {"OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1", **environment}
        self.process = Process(name, [sys.executable, "-m", *command, "--port", str(self.port)], settings, self.log)
        self._health = health

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.process.start()
        self.wait()

    def wait(self) -> None:
        """Waits until it answers."""
        self.process.wait_for(f"http://127.0.0.1:{self.port}{self._health}", 180)

    def stop(self) -> None:
        """Ends it."""
        self.process.stop()

    def post(self, content: bytes, path: str = "/predict", wait: float = 60.0) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the reply to a POST with the login; status 0 where the connection broke."""
        headers = {"Content-Type": JSON_TYPE, "Authorization": LOGIN}
        return self.ask("POST", path, content, headers, wait)

    def ask(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], wait: float = 60.0
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the reply to any request."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=wait)) as connection:
            try:
                connection.request(method, path, content, headers)
                reply = connection.getresponse()
                return reply.status, dict(reply.getheaders()), reply.read()
            except (ConnectionError, http.client.HTTPException):
                return 0, {}, b""

    @property
    def pids(self) -> tuple[int, ...]:
        """The server's process and its children, those that only keep house left out."""
        assert self.process.child is not None
        return (self.process.child.pid, *_workers(self.process.child.pid))

    @property
    def memory(self) -> int:
        """Bytes held by all of its processes."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * os.sysconf("SC_PAGESIZE")


def _workers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def function(folder: Path, *options: str, **environment: str) -> Server:
    """The function's local server with one worker."""
    settings = {"ICMFORMER_DEVICE": "cpu", **environment}
    return Server("function", folder, ["serverless.local", "--workers", "1", *options], settings, "/__internal/health")


def backend(folder: Path, settings: dict[str, str]) -> Server:
    """Label Studio's backend."""
    server = Server("backend", folder, ["ls_backend"], {}, "/health")
    # Process leaves logins of the caller's environment out; those of the settings come in here.
    server.process.environment = {**server.process.environment, **settings}
    return server


def shapes(text: bytes) -> Any:
    """What an answer says of the mask, less what differs from call to call."""
    reply = json.loads(text)
    return reply.get("shapes", reply.get("results"))
