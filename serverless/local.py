"""`icmformer serve cvat`: the function over HTTP on this machine, without Docker.

Serves HTTP as Nuclio's processor does: 503 where no worker comes free in time, 400 over the body limit, 408 and a new
worker where one takes too long; `serverless.pool` has the workers. Limits are those of `serverless/function.yaml`
unless told otherwise. A server like gunicorn has no place for this: it ends a worker that takes too long together with
the connection, and lets requests that find no free worker wait without an end and without an answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from icmformer.serving.logs import shared_metrics

from .pool import PLAIN, Limits, Pool

HANDLER = "icmformer.applications.serverless.main:handler"
_HEALTH = "/__internal/health"


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
            return self._reply(400, PLAIN, b"a Content-Length is needed")
        if len(length) > 18 or int(length) > self.server.limits.body:
            self.close_connection = True
            self.log_message(
                "a body of %s bytes is over the limit of %d (--max-body-mb)", length[:20], self.server.limits.body
            )
            self._reply(400, PLAIN, b"Error when parsing request")
            return self._pass_over()
        try:
            body = self.rfile.read(int(length))
        except TimeoutError:
            self.close_connection = True
            return self._reply(408, PLAIN, b"the body did not arrive in time")
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
            return self._reply(200, PLAIN, b"")
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
        prog="icmformer serve cvat",
        description="Serves the CVAT function on this machine without Docker, with the limits and status codes of "
        "Nuclio's processor. Settings come from the environment: see docs/cvat.md.",
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
        "--event-timeout",
        type=float,
        default=limits.event,
        metavar="SECONDS",
        help=f"seconds that a request may take ({limits.event:g})",
    )
    parser.add_argument(
        "--worker-wait",
        type=float,
        default=limits.wait,
        metavar="SECONDS",
        help=f"seconds that a request waits for a free worker ({limits.wait:g})",
    )
    parser.add_argument("--handler", default=HANDLER, help=f"module:function ({HANDLER})")
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
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it is ending already
        if pool:
            pool.stop()
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
