"""`python -m serverless.local`: the function over HTTP on this machine, without Docker.

Runs the handler as Nuclio's processor does: worker processes with a model each, one event at a time in each, 503 where
no worker comes free in time, 400 over the body limit, 408 and a new worker where one takes too long. Limits are those
of `serverless/function.yaml` unless told otherwise.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib
import json
import multiprocessing
import queue
import signal
import socket
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from icmformer.telemetry import shared_metrics

_START_SECONDS = 600
_HEALTH = "/__internal/health"
_PLAIN, _JSON = {"Content-Type": "text/plain"}, {"Content-Type": "application/json"}
_BUSY = {**_PLAIN, "Retry-After": "2"}  # the header is ours: Nuclio's own 503 has none


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

    def handle(self, message: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The reply; None where it took too long or the worker died: a new one then starts."""
        try:
            self._connection.send(message)
            if self._connection.poll(seconds):
                reply: dict[str, Any] = self._connection.recv()
                return reply
        except (EOFError, OSError):
            pass
        return None

    def restart(self) -> None:
        """Kills the process and starts another."""
        self.stop()
        self._start()

    def stop(self) -> None:
        self._connection.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


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
        start = time.monotonic()
        reply = worker.handle(message, self._limits.event)
        if reply is None and self._stopping:
            return 503, _BUSY, b""
        if reply is None:
            late = time.monotonic() - start >= self._limits.event
            threading.Thread(target=self._replace, args=(worker,), daemon=True).start()
            return (408, _JSON, b'{"error": "handler timed out"}') if late else (500, _PLAIN, b"")
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
            print("a new worker did not come up; its messages are above", file=sys.stderr)
        print("error: a worker is lost; end the server and see why it does not start", file=sys.stderr)

    def stop(self) -> None:
        """Ends the workers."""
        with self._lock:
            self._stopping = True
            for worker in self._all:
                worker.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    pool: Pool

    def __init__(self, address: tuple[str, int], limits: Limits) -> None:
        self.limits = limits
        super().__init__(address, _Requests, bind_and_activate=False)
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds that a caller may keep silent
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            return self._reply(400, _PLAIN, b"a Content-Length is needed")
        if len(length) > 18 or int(length) > self.server.limits.body:
            self.close_connection = True
            self.log_message(
                "a body of %s bytes is over the limit of %d (--max-body-mb)", length[:20], self.server.limits.body
            )
            self._reply(400, _PLAIN, b"Error when parsing request")
            return self._pass_over()
        try:
            body = self.rfile.read(int(length))
        except TimeoutError:
            self.close_connection = True
            return self._reply(408, _PLAIN, b"the body did not come in time")
        message = {
            "body": body,
            "content_type": self.headers.get("Content-Type", ""),
            "trigger": {"kind": "http", "name": "local"},
            "fields": {},
            "headers": dict(self.headers.items()),
            "id": uuid.uuid4().hex,
            "method": self.command,
            "path": self.path,
            "size": len(body),
            "timestamp": int(time.time()),
            "url": self.path,
            "shard_id": 0,
            "num_shards": 0,
            "type": "",
            "type_version": "",
            "version": "",
        }
        self._reply(*self.server.pool.handle(message))

    do_PUT = do_POST

    def do_GET(self) -> None:
        if self.path.startswith(_HEALTH):
            return self._reply(200, _PLAIN, b"")
        self.do_POST()

    def _pass_over(self) -> None:
        """Reads on for a moment: a caller whose sending breaks off never sees the reply."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(2)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and self.rfile.read1(1 << 20):
                pass

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the caller has gone

    def log_message(self, format: str, *args: Any) -> None:
        text = (format % args).encode("unicode_escape").decode()  # a caller writes no lines of its own
        print(f"{self.log_date_time_string()} {text}", file=sys.stderr)


def _parser(limits: Limits) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serverless.local",
        description="Serves the CVAT function on this machine without Docker, with the manners of Nuclio's processor. "
        "Settings come from the environment: see docs/cvat.md.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1); it has no login")
    parser.add_argument("--port", type=int, default=8080, help="port (8080); 0 for any that is free")
    parser.add_argument(
        "--workers", type=int, default=limits.workers, help=f"processes, each with a model ({limits.workers})"
    )
    parser.add_argument(
        "--max-body-mb", type=float, default=limits.body / 2**20, help=f"largest body ({limits.body >> 20})"
    )
    parser.add_argument(
        "--event-timeout", type=float, default=limits.event, metavar="SECONDS", help=f"for a request ({limits.event:g})"
    )
    parser.add_argument(
        "--worker-wait", type=float, default=limits.wait, metavar="SECONDS", help=f"for a free worker ({limits.wait:g})"
    )
    parser.add_argument(
        "--handler", default="serverless.main:handler", help="module:function (serverless.main:handler)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    args = _parser(Limits.of_function(Path(__file__).with_name("function.yaml"))).parse_args(argv)
    if args.workers < 1 or args.max_body_mb <= 0 or args.event_timeout <= 0 or args.worker_wait < 0:
        print("error: --workers starts at 1; limits must be positive", file=sys.stderr)
        return 2
    if not 0 <= args.port <= 65535:
        print(f"error: --port must be a whole number from 0 to 65535, got {args.port}", file=sys.stderr)
        return 2
    limits = Limits(args.workers, int(args.max_body_mb * 2**20), args.worker_wait, args.event_timeout)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)  # said outright: a script's background job starts with SIGINT ignored
    pool = None
    try:
        # bound, and so found to be free, before models load
        with shared_metrics(limits.workers), _Server((args.host, args.port), limits) as server:
            server.pool = pool = Pool(args.handler, limits)
            server.server_activate()
            host, port = server.server_address[:2]
            print(f"serving on http://{host!s}:{port}, {json.dumps(limits.__dict__)}; Ctrl-C stops it", flush=True)
            server.serve_forever(poll_interval=0.2)
    except OSError as error:
        print(f"error: {args.host}:{args.port}: {error.strerror or error}; --port names another", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        if pool:
            pool.stop()
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
