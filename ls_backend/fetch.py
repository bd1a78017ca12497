"""Fetching over http(s) with nothing left to chance: pinned addresses, no silent redirects, time and size limits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ProxyError

from icmformer.errors import IcmformerError
from icmformer.serving.errors import FetchError, TooLargeError
from ls_backend.addresses import Policy, Route, Site, brief, label_studio_of, looks_like_label_studio, shown, split
from ls_backend.settings import BackendSettings

_CONNECT_SECONDS = 5.0
_PIECE = 1 << 16
_REDIRECTS = 4
PRESIGNED = re.compile(r"/(tasks|projects)/\d+/(presign|resolve)/$")
"""Paths of Label Studio that answer with a redirect to a storage."""


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
    public_redirect: bool = False,
) -> Reply:
    """One request, a GET or, with a body, a POST; redirects are told, not followed.

    Args:
        url: Where.
        policy: What is allowed, and which proxies there are.
        deadline: Monotonic time by which everything must be here.
        limit: Most bytes of content.
        headers: Headers.
        body: Content of a POST.
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
                "GET" if body is None else "POST",
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
        raise TooLargeError(
            f"{shown(url)} has {length >> 20} MB; the limit is {limit >> 20} MB (ICMFORMER_MAX_IMAGE_MB)"
        )
    content = bytearray()
    for piece in response.stream(_PIECE, decode_content=False):
        content += piece
        if len(content) > limit:
            raise TooLargeError(f"{shown(url)} has more than {limit >> 20} MB, the limit (ICMFORMER_MAX_IMAGE_MB)")
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


class LabelStudio:
    """Label Studio as this backend sees it: its address, and a token for it.

    Args:
        url: Its address, sub-path included; empty where none is known.
        token: Legacy token or personal access token; empty for none.
        policy: What else may be fetched.
        seconds: For a whole fetch.
        limit: Most bytes of a file.
        aliases: Addresses by which tasks name Label Studio too; what is below one is asked of `url`.
    """

    def __init__(
        self, url: str, token: str, policy: Policy, seconds: float, limit: int, aliases: Sequence[Site] = ()
    ) -> None:
        self.url, self._token, self.policy = url, token, policy
        self.seconds, self._limit, self._aliases = seconds, limit, aliases
        self._access: tuple[str, float] | None = None
        self._access_lock = threading.Lock()
        self.identity = f"{url} {hashlib.blake2b(token.encode(), digest_size=8).hexdigest()}"
        """Whose files these are, for caches that outlive this process: Label Studio's, as a token's user may see it."""

    @staticmethod
    def from_settings(own: BackendSettings, seconds: float | None = None, limit: int | None = None) -> LabelStudio:
        """Label Studio as the settings have it, with other bounds where they are given."""
        return LabelStudio(
            own.url,
            own.api_key,
            Policy.for_home(own.url, own.allowed_hosts, own.proxies),
            seconds or own.fetch_seconds,
            limit or own.max_image_bytes,
            own.aliases,
        )

    def absolute(self, url: str) -> str:
        """An address that the page uses, in full, as this backend reaches it: paths are below Label Studio's.

        Raises:
            RequestError: No address.
            FetchError: A path, and Label Studio's address is not known.
        """
        if not url.startswith("/"):
            alias = next((site for site in self._aliases if site.holds(url)), None)
            return url if alias is None else self.url + alias.below(url)
        if not self.url:
            raise FetchError(
                f"{shown(url)} is a file of Label Studio, whose address is not known: set LABEL_STUDIO_URL"
            )
        prefix = split(self.url).path.rstrip("/")
        return self.url + (url.removeprefix(prefix) if prefix and url.startswith(f"{prefix}/") else url)

    def fetch(self, url: str) -> bytes:
        """A file's content; redirects are followed as far as the policy allows, the token goes to Label Studio alone.

        Where Label Studio itself redirects to a storage (its presign paths), any public host will do.

        Args:
            url: In full.

        Raises:
            FetchError: And what `request` raises; the text says what to do.
        """
        deadline = time.monotonic() + self.seconds
        trusted_redirect = False
        for _ in range(_REDIRECTS):
            home = self.policy.is_home(url)
            reply = self._get(url, deadline, home, trusted_redirect)
            if reply.status in (301, 302, 303, 307, 308) and reply.location:
                trusted_redirect = home and PRESIGNED.search(split(url).path) is not None
                url = _onward(url, reply.location)
                continue
            if reply.status == 200:
                if home and reply.content_type.startswith("text/html"):
                    raise FetchError(
                        f"{shown(url)} is a web page of Label Studio, not a file: is LABEL_STUDIO_URL right, sub-path "
                        "included, and LABEL_STUDIO_API_KEY that of a user who may see the task?"
                    )
                return reply.content
            raise FetchError(_advice(url, reply.status, home, bool(self._token)))
        raise FetchError(f"{shown(url)} redirects more than {_REDIRECTS - 1} times")

    def _get(self, url: str, deadline: float, home: bool, trusted: bool) -> Reply:
        def ask() -> Reply:
            headers = self._authorization(deadline) if home else {}
            return request(
                url, self.policy, deadline=deadline, limit=self._limit, headers=headers, public_redirect=trusted
            )

        reply = ask()
        if reply.status == 401 and home and self._access is not None:
            self._access = None  # expired before its time
            reply = ask()
        return reply

    def _authorization(self, deadline: float) -> dict[str, str]:
        if not self._token:
            return {}
        if self._token.count(".") != 2:
            return {"Authorization": f"Token {self._token}"}
        with self._access_lock:
            access = self._access
            if access is None or access[1] < time.monotonic():
                access = self._access = self._exchanged(deadline), time.monotonic() + 240  # Label Studio's last 300 s
        return {"Authorization": f"Bearer {access[0]}"}

    def _exchanged(self, deadline: float) -> str:
        """A short-lived token for a personal access token."""
        reply = request(
            f"{self.url}/api/token/refresh/",
            self.policy,
            deadline=deadline,
            limit=1 << 20,
            headers={"Content-Type": "application/json"},
            body=json.dumps({"refresh": self._token}).encode(),
        )
        try:
            access = json.loads(reply.content)["access"] if reply.status == 200 else None
        except (ValueError, KeyError, TypeError):
            access = None
        if not isinstance(access, str):
            raise FetchError(
                f"Label Studio did not take the personal access token (status {reply.status}): make a new one on the "
                "account page and set LABEL_STUDIO_API_KEY"
            )
        return access


def _onward(url: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError(f"{shown(url)} redirects to something that is not an address") from error


def _advice(url: str, status: int, home: bool, token: bool) -> str:
    told = f"{shown(url)} answered {status}"
    if not home and status in (401, 403, 404) and looks_like_label_studio(url):
        return (
            f"{told}: if that is Label Studio by another name, put {label_studio_of(url)} into LABEL_STUDIO_ALIASES; "
            "the token goes to LABEL_STUDIO_URL alone"
        )
    if home and status == 404 and PRESIGNED.search(split(url).path):
        return (
            told
            + ": Label Studio knows no storage for it; connect the storage to the project (Settings, Cloud Storage)"
        )
    if home and status in (401, 403):
        return (
            told
            + ": "
            + (
                "the token in LABEL_STUDIO_API_KEY is wrong, disabled for the organisation, or may not see this task"
                if token
                else "set LABEL_STUDIO_API_KEY to a token of a user who may see the task"
            )
        )
    if home and status == 404:
        return told + ": is LABEL_STUDIO_URL right, sub-path included, and local file serving on?"
    return told
