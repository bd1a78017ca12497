"""A real Label Studio and the backend beside it, as processes of this machine. Needs Python's own library alone."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
USER, PASSWORD = "demo@example.org", "icmformer-demo"
CONFIGS = {
    "brush": """<View>
  <Image name="image" value="$image" zoom="true"/>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="Object" background="#0a7cff" showInline="true"/><Label value="Other" background="#ffb300"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">
    <Label value="Object" background="#0a7cff"/><Label value="Other" background="#ffb300"/>
  </RectangleLabels>
  <BrushLabels name="mask" toName="image" smart="false">
    <Label value="Object" background="#0a7cff"/><Label value="Other" background="#ffb300"/>
  </BrushLabels>
</View>""",
    "unified": """<View>
  <Image name="image" value="$image" zoom="true"/>
  <Labels name="label" toName="image">
    <Label value="Object" background="#0a7cff"/><Label value="Other" background="#ffb300"/>
  </Labels>
  <KeyPoint name="click" toName="image" smart="true" smartOnly="true"/>
  <Brush name="mask" toName="image" smart="false"/>
</View>""",
    "polygon": """<View>
  <Image name="image" value="$image" zoom="true"/>
  <KeyPointLabels name="click" toName="image" smart="true"><Label value="Object" background="#0a7cff"/></KeyPointLabels>
  <PolygonLabels name="outline" toName="image" smart="false">
    <Label value="Object" background="#0a7cff"/>
  </PolygonLabels>
</View>""",
}


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on this machine
_FOREIGN = frozenset({"HOST", "PORT", "WORKERS", "THREADS", "BASIC_AUTH_USER", "BASIC_AUTH_PASS"})


def _own_environment() -> dict[str, str]:
    """The user's environment without what would set the demo's servers up otherwise."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and not name.startswith("LABEL_STUDIO_")
    }
    local = "localhost,127.0.0.1"
    return {**kept, "NO_PROXY": local, "no_proxy": local}


def _end_with_parent() -> None:
    """Has Linux end this process when the one that started it is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class StackError(Exception):
    """Something that was started did not come up, or did not answer as it should."""


def free_port(preferred: int) -> int:
    """The preferred port where it is free, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections just closed do not count
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StackError("this machine has no free port")


@dataclass
class Process:
    """A child process with its log file; it and its own children end together."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Starts it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**_own_environment(), **self.environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                # Linux means the thread that started it: one that comes and goes must not take the process along.
                preexec_fn=_end_with_parent if threading.current_thread() is threading.main_thread() else None,
            )

    def wait_for(self, url: str, seconds: float, tell: Any = None) -> None:
        """Waits until an address answers.

        Raises:
            StackError: The process ended, or the time is over; the text holds the end of its log.
        """
        assert self.child is not None
        deadline = time.monotonic() + seconds
        while True:
            if self.child.poll() is not None:
                raise StackError(
                    f"{self.name} ended with code {self.child.returncode}; end of {self.log}:\n{self._tail()}"
                )
            try:
                with _DIRECT.open(url, timeout=2):
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer in {seconds:.0f} s; end of {self.log}:\n{self._tail()}")
            if tell:
                tell()
            time.sleep(0.5)

    def stop(self) -> None:
        """Ends it, gently at first."""
        if self.child is None or self.child.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(8)
                return

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Studio:
    """Label Studio on SQLite and the backend, with their data below one folder.

    Args:
        home: Folder for the data, the logs and what is remembered between runs.
        studio_bin: `bin` folder of an environment with label-studio.
        backend_python: Python of an environment with this package.
        ports: Preferred ports of Label Studio and of the backend.
        training: Further options of `training.finetune` for *Start Training*; None leaves that button without effect.
            With it the backend asks for credentials, and its weights have versions, in `weights`.
    """

    def __init__(
        self,
        home: Path,
        studio_bin: Path,
        backend_python: Path,
        ports: tuple[int, int] = (8080, 9090),
        training: str | None = None,
    ) -> None:
        self.home = home
        self.remembered = home / "demo.json"
        self.home.mkdir(parents=True, exist_ok=True)
        known = self._recall()
        self.first = not known.get("set_up")
        if self.first:  # a database that was not finished is of no use to anybody
            shutil.rmtree(home / "data", ignore_errors=True)
        self.token: str = known.get("token") or secrets.token_hex(20)
        self.backend_login = ("label-studio", known.get("backend_password") or secrets.token_hex(20))
        self.weights = home / "weights"
        self.trains = training is not None
        self._python = backend_python
        self.port, self.backend_port = (free_port(port) for port in ports)
        busy = [
            str(port) for port, got in zip(ports, (self.port, self.backend_port), strict=True) if port and port != got
        ]
        self.moved = f"Port {' and '.join(busy)} taken by another program; using others." if busy else ""
        # For the page a name, for the backend the address itself: localhost may mean another one (::1) there.
        self.url = f"http://localhost:{self.port}"
        self.backend_url = f"http://localhost:{self.backend_port}"
        self._remember(set_up=not self.first)
        self.label_studio = Process(
            "Label Studio",
            [
                str(studio_bin / "label-studio"),
                *f"start --no-browser --internal-host 127.0.0.1 --port {self.port}".split(),
            ],
            {
                "LABEL_STUDIO_BASE_DATA_DIR": str(home / "data"),
                "LABEL_STUDIO_USERNAME": USER,
                "LABEL_STUDIO_PASSWORD": PASSWORD,
                "LABEL_STUDIO_USER_TOKEN": self.token,
                "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
                "LABEL_STUDIO_HOST": self.url,
                "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",  # the backend is on this machine
                "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
                "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
                "LABEL_STUDIO_SENTRY_DSN": "",
                "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
                "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            },
            home / "logs" / "label-studio.log",
        )
        self.backend = Process(
            "the backend",
            [
                str(backend_python),
                "-m",
                "icmformer",
                "serve",
                "label-studio",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.backend_port),
            ],
            {
                "LABEL_STUDIO_URL": f"http://127.0.0.1:{self.port}",
                "LABEL_STUDIO_API_KEY": self.token,
                "ICMFORMER_CACHE_DIR": str(home / "cache"),
                "OMP_WAIT_POLICY": "passive",
                **({} if training is None else self._training(training)),
            },
            home / "logs" / "backend.log",
        )

    def _training(self, options: str) -> dict[str, str]:
        """The backend's settings for *Start Training*."""
        return {
            "ICMFORMER_WEIGHTS": str(self.weights),
            "ICMFORMER_TRAINING_DIR": str(self.home / "training"),
            "ICMFORMER_TRAINING_OPTIONS": options,
            "ICMFORMER_CLICK_LOG": str(self.home / "clicks.jsonl"),
            "BASIC_AUTH_USER": self.backend_login[0],
            "BASIC_AUTH_PASS": self.backend_login[1],
        }

    def start(self, tell: Any = None) -> None:
        """Starts both and waits until they answer; the first start of Label Studio sets its database up."""
        self.label_studio.start()
        if self.trains and not (self.weights / "current").exists():
            self._make_store()
        self.backend.start()
        self.backend.wait_for(f"{self.backend_url}/health", 120, tell)
        self.label_studio.wait_for(f"{self.url}/health", 300, tell)
        self._remember(set_up=True)

    def _make_store(self) -> None:
        """Begins the versions of the weights with the bundled ones."""
        command = [str(self._python), "-m", "icmformer", "weights", "promote", str(self.weights), "starter"]
        done = subprocess.run(command, cwd=ROOT, env=_own_environment(), capture_output=True, text=True)
        if done.returncode:
            raise StackError(f"the store of weights cannot be made: {done.stderr.strip()}")

    def _recall(self) -> dict[str, Any]:
        try:
            known = json.loads(self.remembered.read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _remember(self, set_up: bool) -> None:
        self.remembered.touch(mode=0o600)
        self.remembered.write_text(
            json.dumps({"token": self.token, "backend_password": self.backend_login[1], "set_up": set_up})
        )

    def stop(self) -> None:
        """Ends both, and a training."""
        self.backend.stop()
        self._stop_training()
        self.label_studio.stop()

    def _stop_training(self) -> None:
        """Stops the training that runs, if any, as Ctrl-C does: the next start of the backend goes on with it."""
        for file in (self.home / "training").glob("project-*/run-*/job.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                pid = int(json.loads(file.read_text())["pid"])
                place = Path(f"/proc/{pid}/cmdline")
                for number, seconds in ((signal.SIGINT, 30.0), (signal.SIGKILL, 5.0)):
                    deadline = time.monotonic() + seconds
                    if str(file.parent).encode() in place.read_bytes():  # else it has ended, or is another process
                        os.kill(pid, number)
                    while place.read_bytes() and time.monotonic() < deadline:  # empty for one that nobody waited for
                        time.sleep(0.1)

    def api(self, method: str, path: str, content: Any = None, files: Mapping[str, bytes] | None = None) -> Any:
        """One call of Label Studio's API; JSON in and out, bytes where the answer is none."""
        headers = {"Authorization": f"Token {self.token}"}
        data = None
        if files is not None:
            data, headers["Content-Type"] = _multipart(files)
        elif content is not None:
            data, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        call = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with _DIRECT.open(call, timeout=120) as reply:
                body = reply.read()
                is_json = "json" in reply.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            raise StackError(f"{method} {path}: {error.code}: {error.read()[:400].decode(errors='replace')}") from error
        return json.loads(body) if is_json and body else body

    def project(self, title: str, config: str, photos: Mapping[str, bytes]) -> int:
        """The project of a title, made and filled with photos where there is none, and connected to the backend."""
        found = [p for p in self.api("GET", "/api/projects?page_size=1000")["results"] if p["title"] == title]
        project = found[0] if found else self.api("POST", "/api/projects", {"title": title, "label_config": config})
        number = int(project["id"])
        if not project.get("task_number"):
            self.api("POST", f"/api/projects/{number}/import", files=photos)
        connected = self.api("GET", f"/api/ml?project={number}")
        about = {"url": self.backend_url, "project": number, "title": "icmformer", "is_interactive": True}
        if self.trains:
            user, password = self.backend_login
            about |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
        if not connected:
            self.api("POST", "/api/ml", about)
        elif connected[0]["url"] != self.backend_url or (self.trains and not connected[0]["basic_auth_pass_is_set"]):
            self.api("PATCH", f"/api/ml/{connected[0]['id']}", about)
        if self.trains:  # so that the backend hears which masks were kept
            login = base64.b64encode(":".join(self.backend_login).encode()).decode()
            for hook in self.api("GET", f"/api/webhooks/?project={number}"):
                self.api("PATCH", f"/api/webhooks/{hook['id']}/", {"headers": {"Authorization": f"Basic {login}"}})
        return number


def _multipart(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    border = uuid.uuid4().hex
    parts = [
        f'--{border}\r\nContent-Disposition: form-data; name="file{n}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for n, (name, content) in enumerate(files.items())
    ]
    return b"".join([*parts, f"--{border}--\r\n".encode()]), f"multipart/form-data; boundary={border}"
