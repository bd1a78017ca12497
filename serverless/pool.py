"""Worker processes with a handler each, as Nuclio's processor keeps them: one event at a time, replaced where dead."""

from __future__ import annotations

import base64
import importlib
import multiprocessing
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_START_SECONDS = 600
PLAIN, JSON = {"Content-Type": "text/plain"}, {"Content-Type": "application/json"}
_BUSY = {**PLAIN, "Retry-After": "2"}  # the header is ours: Nuclio's own 503 has none


@dataclass(frozen=True)
class Limits:
    """What the processor holds requests to.

    Attributes:
        workers: Processes.
        body: Largest body in bytes.
        wait: Seconds that a request waits for a worker.
        event: Seconds that a worker may take.
    """

    workers: int
    body: int
    wait: float
    event: float

    @staticmethod
    def of_function(path: Path) -> Limits:
        """Reads a function.yaml."""
        import yaml

        spec = yaml.safe_load(path.read_text())["spec"]
        trigger = next(t for t in spec["triggers"].values() if t["kind"] == "http")
        return Limits(
            workers=int(trigger["numWorkers"]),
            body=int(trigger["attributes"]["maxRequestBodySize"]),
            wait=int(trigger["workerAvailabilityTimeoutMilliseconds"]) / 1000,
            event=float(str(spec["eventTimeout"]).removesuffix("s")),
        )


def _serve_events(connection: Connection, handler: str, number: int) -> None:
    """A worker's life: `init_context` once, then one event after the other."""
    import nuclio_sdk
    import nuclio_sdk.logger
    from nuclio_sdk.json_encoder import Encoder

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    logger = nuclio_sdk.Logger("INFO")
    logger.set_handler("default", sys.stderr, nuclio_sdk.logger.HumanReadableFormatter())
    module_name, _, function = handler.partition(":")
    module = importlib.import_module(module_name)
    context = nuclio_sdk.Context(logger, worker_id=number, trigger=nuclio_sdk.TriggerInfo("http", "local"))
    if hasattr(module, "init_context"):
        module.init_context(context)
    entry = getattr(module, function)
    connection.send("ready")
    kind = nuclio_sdk.event.EventDeserializerKinds.msgpack
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        event = nuclio_sdk.Event.deserialize(message, kind=kind)
        try:
            reply = nuclio_sdk.Response.from_entrypoint_output(Encoder().encode, entry(context, event))
        except Exception as error:
            logger.error_with("Exception caught in handler", exc=repr(error))
            reply = {
                **nuclio_sdk.Response.empty_response(),
                "status_code": 500,
                "body": f"the handler raised {error!r}",
            }
        connection.send(reply)


class _Worker:
    def __init__(self, handler: str, number: int) -> None:
        self._handler, self._number = handler, number
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve_events, args=(theirs, self._handler, self._number), name=f"worker-{self._number}", daemon=True
        )
        self.process.start()
        theirs.close()

    def wait_until_ready(self) -> bool:
        """False where the worker ended before it was ready."""
        try:
            return self._connection.poll(_START_SECONDS) and self._connection.recv() == "ready"
        except (EOFError, OSError):
            return False

    def handle(self, message: dict[str, Any], seconds: float) -> tuple[dict[str, Any] | None, bool]:
        """The reply, and whether it took too long; a worker without a reply is dead, or soon, and wants a restart.

        The process is killed when its time is over, which ends whatever is being waited for here: a reply, or a frozen
        process to read a message that is larger than the pipe.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        reply: dict[str, Any] | None = None
        try:
            self._connection.send(message)
            reply = self._connection.recv()
        except (EOFError, OSError):
            pass
        timer.cancel()
        timer.join()  # it has struck by now, or never will
        return (None, True) if late.is_set() else (reply, False)

    def restart(self) -> None:
        """Kills the process and starts another."""
        self.stop()
        self._start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self._connection.close()


class Pool:
    """The workers.

    Args:
        handler: `module:function`.
        limits: Of the processor.
    """

    def __init__(self, handler: str, limits: Limits) -> None:
        self._limits = limits
        self._stopping = False
        self._lock = threading.Lock()
        self._all = [_Worker(handler, n) for n in range(limits.workers)]
        self._free: queue.Queue[_Worker] = queue.Queue()
        if not all(worker.wait_until_ready() for worker in self._all):
            self.stop()
            raise RuntimeError("a worker ended while it started, or did not get ready; its messages are above")
        for worker in self._all:
            self._free.put(worker)

    def handle(self, message: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a reply."""
        try:
            worker = self._free.get(timeout=self._limits.wait)
        except queue.Empty:
            return 503, _BUSY, b""
        reply, late = worker.handle(message, self._limits.event)
        if reply is None and self._stopping:
            return 503, _BUSY, b""
        if reply is None:
            threading.Thread(target=self._replace, args=(worker,), daemon=True).start()
            return (408, JSON, b'{"error": "handler timed out"}') if late else (500, PLAIN, b"")
        self._free.put(worker)
        body = reply["body"].encode()
        if reply["body_encoding"] == "base64":
            body = base64.b64decode(body)
        return reply["status_code"], {"Content-Type": reply["content_type"], **reply["headers"]}, body

    def _replace(self, worker: _Worker) -> None:
        print("a worker took too long or died; starting another", file=sys.stderr)
        for pause in (0, 1, 5, 30):
            time.sleep(pause)
            with self._lock:
                if self._stopping:
                    return
                worker.restart()
            if worker.wait_until_ready():
                self._free.put(worker)
                return
            print("a new worker did not start; its messages are above", file=sys.stderr)
        print("error: a worker is lost; end the server and see why it does not start", file=sys.stderr)

    def stop(self) -> None:
        """Ends the workers."""
        with self._lock:
            self._stopping = True
            for worker in self._all:
                worker.stop()
