"""The page's HTTP server: on this machine alone unless told otherwise, for whoever has its address.

The address holds a random token, so other users of the machine cannot ask anything; other pages in the user's browser
are told by the headers `Host` and `Origin`. No path comes from a request: photos are named by number. A browser is
started with another address, which leads to the page once: its command line can be seen by all users of the machine.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from icmformer.serving.errors import status_of
from icmformer.tryout.page import page, policy
from icmformer.tryout.photos import MOST_FILE, UnknownPhotoError
from icmformer.tryout.site import JSON, Content, Site

log = logging.getLogger("icmformer.tryout")

MOST_JSON = 1 << 20
"""Bytes of a request with clicks."""
_HTML, _FILE = "text/html; charset=utf-8", "application/octet-stream"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NOWHERE = "default-src 'none'; frame-ancestors 'none'"
_LONGEST_DRAIN = 5.0  # seconds


class RefusedError(Exception):
    """A request that is not the page's, or not as the page makes it.

    Attributes:
        status: HTTP's.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class PageServer(ThreadingHTTPServer):
    """Serves one site.

    Made, it has its port and takes no connection yet; `activate` and `serve_forever` do.

    Args:
        host: Address to listen on.
        port: 0 for any that is free.

    Raises:
        OSError: The address cannot be had.

    Attributes:
        site: What is served.
        token: The secret of its address.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere two servers could then have the same port

    site: Site

    def __init__(self, host: str, port: int) -> None:
        self.host, self.token, self._invitation = host, secrets.token_urlsafe(18), ""
        self._lapses, self._open = 0.0, dict[threading.Thread, socket.socket]()
        self._busy, self._closing, self._changed = 0, False, threading.Condition()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Requests, bind_and_activate=False)
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks a name server, which may take seconds
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def address(self) -> str:
        """The page's, for a browser of this machine."""
        return f"{self._root}/{self.token}/"

    @property
    def _root(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def invitation(self, seconds: float = 60.0) -> str:
        """An address that leads to the page once, for so many seconds."""
        with self._changed:
            self._invitation, self._lapses = secrets.token_urlsafe(18), time.monotonic() + seconds
            return f"{self._root}/once/{self._invitation}"

    def invited(self, path: str) -> bool:
        """Whether a path is that of the last invitation, which it then uses up."""
        given = path.removeprefix("/once/")
        with self._changed:
            open_still = bool(self._invitation) and time.monotonic() < self._lapses
            known = given != path and open_still and _same(given, self._invitation)
            self._invitation = "" if known else self._invitation
            return known

    @property
    def open_to_others(self) -> bool:
        """Whether other machines may reach it."""
        return not (self.host == "localhost" or _is_loopback(self.host))

    def knows(self, host: str) -> bool:
        """Whether a name or address is this server's own.

        A page of somebody else's that has its own name lead here (DNS rebinding) asks under that name.
        """
        if host == "localhost" or _is_loopback(host):
            return True
        own = (self.host, socket.gethostname())
        return self.open_to_others and (host in map(str.lower, own) or _is_address(host))

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a request is worked on.

        Raises:
            RefusedError: The server is ending.
        """
        with self._changed:
            if self._closing:
                raise RefusedError(503, "the server is stopping")
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers a connection in a thread, as the standard library does, and remembers both until `finish`."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._changed:
            self._open = {known: held for known, held in self._open.items() if known.is_alive()} | {thread: request}
            thread.start()

    def finish(self, seconds: float) -> None:
        """Takes no more requests, waits for those in progress, and ends all connections with their threads.

        A process that ends while a thread is there that has run a network may crash, in torch or OpenVINO.
        """
        end = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._busy, seconds)
            connections = dict(self._open)
        for connection in connections.values():
            with contextlib.suppress(OSError):  # it has ended already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            thread.join(max(0.0, end - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says what went wrong on the terminal, unless the browser has just gone away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            log.exception("a connection failed")


def _same(given: str, secret: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), secret.encode())


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


@dataclass(frozen=True)
class _Route:
    """An address below the token, and what answers it.

    Attributes:
        method: HTTP's.
        path: A pattern, whose group is a photo's number.
        answer: Of the site, the photo's number, the query and the body.
        kind: The body's media type.
        most: Its bytes.
    """

    method: str
    path: str
    answer: Callable[[Site, int, str, bytes], Content]
    kind: str = JSON
    most: int = MOST_JSON


_NUMBER = r"photos/(\d{1,6})"
_ROUTES = (
    _Route("GET", "", lambda site, number, query, body: Content(_HTML, page())),
    _Route("GET", "state", lambda site, number, query, body: site.state()),
    _Route("GET", _NUMBER, lambda site, number, query, body: site.photo(number)),
    _Route("GET", f"{_NUMBER}/view", lambda site, number, query, body: site.view(number, query)),
    _Route("POST", "photos", lambda site, number, query, body: site.add(query, body), _FILE, MOST_FILE),
    _Route("POST", f"{_NUMBER}/mask", lambda site, number, query, body: site.mask(number, body)),
    _Route("POST", rf"{_NUMBER}/mask\.png", lambda site, number, query, body: site.mask_file(number, body)),
    _Route("POST", f"{_NUMBER}/polygons", lambda site, number, query, body: site.polygons(number, body)),
)


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds that a browser may keep silent
    server: PageServer

    def _respond(self) -> None:
        """Answers a request, unless the server is ending."""
        try:
            with self.server.working():  # until the reply is sent
                self._answer()
        except RefusedError as error:
            self._refuse(error.status, str(error), self.command == "GET")

    def _answer(self) -> None:
        """Answers a request; what cannot be answered gets one sentence, and no traceback."""
        read = self.command == "GET"  # whether nothing of the request waits to be read
        if read and ("Content-Length" in self.headers or "Transfer-Encoding" in self.headers):
            self.close_connection = True  # a body that nobody will read
        try:
            self._check_sender()
            if self.command == "GET" and self.server.invited(self.path):
                return self._send(303, Content(_HTML, b""), {"Location": f"/{self.server.token}/"})
            route, number, query = self._route()
            body = self._body(route) if route.method == "POST" else b""
            read = True
            content = route.answer(self.server.site, number, query, body)
        except RefusedError as error:
            self._refuse(error.status, str(error), read)
        except TimeoutError:
            self._refuse(408, "the request did not arrive in time", read)
        except Exception as error:
            status = 404 if isinstance(error, UnknownPhotoError) else status_of(error)[0]
            if status == 500:
                log.exception("a request failed")
            text = "the server failed; its terminal says more" if status == 500 else " ".join(str(error).split())
            self._refuse(status, text, read)
        else:
            self._send(200, content)

    do_GET = do_POST = _respond

    def _check_sender(self) -> None:
        """Raises `RefusedError` where another page asks, or under another name."""
        host = self.headers.get("Host", "")
        if not self.server.knows(_name(host)):
            raise RefusedError(403, "this server is not known by that name; open the address that it printed")
        if self.headers.get("Origin", f"http://{host}").lower() != f"http://{host.lower()}":
            raise RefusedError(403, "another page may not ask this server")

    def _route(self) -> tuple[_Route, int, str]:
        """What is asked for: the route, the photo's number (-1 for none), and the query.

        Raises:
            RefusedError: It is not asked for by the page's address, or is not there.
        """
        path, _, query = self.path.partition("?")
        token, _, rest = path.removeprefix("/").partition("/")
        if not (path.startswith("/") and _same(token, self.server.token)):
            raise RefusedError(403, "open the address that `icmformer try` printed: it has a secret part")
        if path.count("/") == 1:
            raise RefusedError(404, "the address ends with a slash")
        found = [(route, match) for route in _ROUTES if (match := re.fullmatch(route.path, rest, re.ASCII))]
        if not found:
            raise RefusedError(404, "there is no such address here")
        route, match = found[0]
        if route.method != self.command:
            raise RefusedError(405, f"this address takes {route.method} alone")
        return route, int(match[1]) if match.groups() else -1, query

    def _body(self, route: _Route) -> bytes:
        """What was sent.

        Raises:
            RefusedError: Too long, of an unknown length or of another type.
        """
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,18}", length, re.ASCII) or self.headers.get("Transfer-Encoding"):
            raise RefusedError(411, "a Content-Length is needed")
        if int(length) > route.most:
            raise RefusedError(413, f"this is too large: the limit is {route.most >> 20} MB")
        if self.headers.get_content_type() != route.kind:
            raise RefusedError(415, f"a body of the type {route.kind} is needed")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RefusedError(400, "the request ended early")
        return body

    def _refuse(self, status: int, text: str, read: bool) -> None:
        self.close_connection = self.close_connection or not read
        self._send(status, Content(JSON, json.dumps({"error": text}).encode()))
        if not read:
            self._drain()

    def _drain(self) -> None:
        """Reads on for a moment: a browser whose sending breaks off never sees the reply."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            deadline = time.monotonic() + _LONGEST_DRAIN
            while time.monotonic() < deadline and self.rfile.read1(1 << 20):
                pass

    def _send(self, status: int, content: Content, more: Mapping[str, str] | None = None) -> None:
        rules = policy() if content.kind == _HTML else _NOWHERE
        headers = {**_HEADERS, "Content-Type": content.kind, "Content-Security-Policy": rules, **(more or {})}
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content.body))}.items():
                self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser has gone

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` cannot read or does not know, such as other methods."""
        self.close_connection = True
        self._send(code, Content(JSON, json.dumps({"error": "this is not a request that the page makes"}).encode()))

    def version_string(self) -> str:
        return "icmformer"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for what the user has to know."""


def _name(host: str) -> str:
    """The name or address of a `Host` header, in small letters, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
