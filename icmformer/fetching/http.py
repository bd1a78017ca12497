"""Fetching over http(s) with nothing left to chance: pinned addresses, no silent redirects, time and size limits."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ProxyError

from icmformer.errors import IcmformerError
from icmformer.fetching.addresses import Policy, Route, brief, shown, split
from icmformer.serving.errors import FetchError, TooLargeError

_CONNECT_SECONDS = 5.0
_PIECE = 1 << 16


@dataclass(frozen=True)
class Reply:
    """What a server said: status, content and its type, where a redirect leads, and the server's clock."""

    status: int
    content: bytes
    content_type: str
    location: str | None
    date: str | None = None


def request(
    url: str,
    policy: Policy,
    *,
    deadline: float,
    limit: int,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    method: str = "",
    public_redirect: bool = False,
) -> Reply:
    """One request; redirects are told, not followed.

    Args:
        url: Where.
        policy: What is allowed, and which proxies there are.
        deadline: Monotonic time by which everything must be here.
        limit: Most bytes of content.
        headers: Headers.
        body: Content to send.
        method: HTTP's; empty for GET, or, with a body, POST.
        public_redirect: See `Policy.resolve`.

    Raises:
        RequestError, RefusedHostError: See `Policy.resolve`.
        FetchError: No connection, no answer in time, a broken one.
        TooLargeError: More than `limit` bytes.
    """
    route = policy.resolve(url, public_redirect)
    parts = split(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # Through a proxy a plain request names the address in full.
    target = url.partition("#")[0] if route.proxy and parts.scheme == "http" else path
    watch = _Watch(url, deadline)
    try:
        with watch, _pool(url, route, watch) as pool:
            response = pool.urlopen(
                method or ("GET" if body is None else "POST"),
                target,
                body,
                {"User-Agent": "icmformer", **(headers or {})},
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, watch.left), read=watch.left),
                preload_content=False,
                decode_content=False,
                enforce_content_length=False,
            )
            content = _content(response, url, limit, watch)
            told = response.headers.get
            return Reply(response.status, content, told("Content-Type", ""), told("Location"), told("Date"))
    except IcmformerError:
        raise
    except (OSError, HTTPError, ValueError) as error:
        watch.check()
        raise FetchError(f"{shown(url)} could not be fetched: {_cause(error, route)}{_remedy(url, policy)}") from error


def _content(response: urllib3.BaseHTTPResponse, url: str, limit: int, watch: _Watch) -> bytes:
    """All of a reply's content, and no more than is let in."""
    said = response.headers.get("Content-Length", "")
    length = int(said) if said.isdigit() else None
    if length is not None and length > limit:
        raise TooLargeError(f"{shown(url)} has {length >> 20} MB; the limit is {limit >> 20} MB")
    content = bytearray()
    for piece in response.stream(_PIECE, decode_content=False):
        content += piece
        if len(content) > limit:
            raise TooLargeError(f"{shown(url)} has more than {limit >> 20} MB, the limit")
    watch.check()
    if length is not None and len(content) < length:
        raise FetchError(f"{shown(url)} ended after {len(content):,} of {length:,} bytes")
    return bytes(content)


class _Watch:
    """Ends a connection at the deadline, whatever is being waited for: a slow drip of headers, say."""

    def __init__(self, url: str, deadline: float) -> None:
        self._url, self._deadline = url, deadline
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        self.check()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()

    @property
    def left(self) -> float:
        """Seconds."""
        self.check()
        return max(self._deadline - time.monotonic(), 0.001)

    def check(self) -> None:
        """Raises `FetchError` once it is too late."""
        if time.monotonic() >= self._deadline:
            raise FetchError(f"{shown(self._url)} did not arrive in time")

    def over(self, connected: socket.socket) -> socket.socket:
        """Takes a connection under watch, by a handle of its own: TLS takes the first one over."""
        self._socket = connected.dup()
        self._timer = threading.Timer(self.left, self._shut, (self._socket,))
        self._timer.daemon = True
        self._timer.start()
        return connected

    @staticmethod
    def _shut(connected: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)


def _pool(url: str, route: Route, watch: _Watch) -> HTTPConnectionPool:
    """Connections to where an address leads, with their sockets under watch."""
    parts = split(url)
    host = parts.hostname or ""
    pool: HTTPConnectionPool
    if route.proxy is not None:
        proxy = urlsplit(route.proxy)
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}" if proxy.username else None
        manager = urllib3.ProxyManager(route.proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=login))
        pool = manager.connection_from_host(host, route.port, parts.scheme)
    elif parts.scheme == "https":
        pool = urllib3.HTTPSConnectionPool(host, route.port)
    else:
        pool = HTTPConnectionPool(host, route.port)
    pool.ConnectionCls = _watched(pool.ConnectionCls, route, watch)
    return pool


def _watched(base: Any, route: Route, watch: _Watch) -> Any:
    """A kind of connection whose sockets are those of the route.

    The addresses that were checked are those connected to: a second look-up of the name could say something else.
    """

    class Watched(base):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            connected: socket.socket = _connected(route, watch) if route.proxy is None else super()._new_conn()
            return watch.over(connected)

    return Watched


def _connected(route: Route, watch: _Watch) -> socket.socket:
    """A connection to the first of some addresses that takes one."""
    for place, ip in enumerate(route.ips, 1):
        try:
            return socket.create_connection((ip, route.port), min(_CONNECT_SECONDS, watch.left))
        except OSError:
            if place == len(route.ips):
                raise
    raise OSError("the name has no address")


def _cause(error: BaseException, route: Route) -> str:
    """What went wrong, in few words: what another server said may be in them, a proxy's password may not."""
    innermost = error
    while (inner := _inner(innermost)) is not None:
        innermost = inner
    text = brief(str(innermost)) or type(innermost).__name__
    if route.proxy is not None and isinstance(error, ProxyError):
        return f"the proxy {shown(route.proxy)} does not let it through ({text})"
    return text


def _remedy(url: str, policy: Policy) -> str:
    if policy.is_home(url):
        return "; is Label Studio up, and LABEL_STUDIO_URL its address as this machine reaches it?"
    return "; can this machine reach that host?"


def _inner(error: BaseException) -> BaseException | None:
    for part in (*error.args, getattr(error, "original_error", None), getattr(error, "reason", None)):
        if isinstance(part, BaseException) and part is not error:
            return part
    return None
