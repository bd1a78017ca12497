"""Fetching over http(s) with nothing left to chance: pinned addresses, no silent redirects, time and size limits."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

from icmformer.errors import IcmformerError
from ls_backend.addresses import Policy, brief, shown, split
from ls_backend.errors import FetchError, TooLargeError

_CONNECT_SECONDS = 5.0
_PIECE = 1 << 16
_REDIRECTS = 4
PRESIGNED = re.compile(r"/(tasks|projects)/\d+/(presign|resolve)/$")
"""Paths of Label Studio that answer with a redirect to a storage."""


@dataclass(frozen=True)
class Reply:
    """What a server said: status, content and its type, and where a redirect leads."""

    status: int
    content: bytes
    content_type: str
    location: str | None


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
        policy: What is allowed.
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
    ips, port = policy.resolve(url, public_redirect)
    parts = split(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, port)
    # The addresses that were checked are those connected to: a second look-up of the name could say something else.
    connection._create_connection = (  # type: ignore[attr-defined]
        lambda *_: _connected(ips, port, deadline, url)
    )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    ended = threading.Event()
    try:
        connection.connect()
        # The reading end is shut at the deadline, whatever is being waited for: a slow drip of headers, say.
        timer = threading.Timer(_left(deadline, url), _shut, (connection.sock, ended))
        timer.daemon = True
        timer.start()
        connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        response = connection.getresponse()
        length = response.getheader("Content-Length", "")
        if length.isdigit() and int(length) > limit:
            raise TooLargeError(
                f"{shown(url)} has {int(length) >> 20} MB, more than the {limit >> 20} MB that are fetched"
            )
        content = bytearray()
        while piece := response.read1(_PIECE):
            content += piece
            if len(content) > limit:
                raise TooLargeError(f"{shown(url)} has more than the {limit >> 20} MB that are fetched")
        _left(deadline, url)
        if length.isdigit() and len(content) < int(length):
            raise FetchError(f"{shown(url)} ended after {len(content):,} of {int(length):,} bytes")
        content_type = response.getheader("Content-Type", "")
        return Reply(response.status, bytes(content), content_type, response.getheader("Location"))
    except IcmformerError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        _left(deadline, url)
        why = brief(str(error)) or type(error).__name__  # what another server said may be in it
        raise FetchError(f"{shown(url)} could not be fetched: {why}") from error
    finally:
        ended.set()
        connection.close()


def _connected(ips: Sequence[str], port: int, deadline: float, url: str) -> socket.socket:
    """A connection to the first of some addresses that takes one."""
    for place, ip in enumerate(ips, 1):
        try:
            return socket.create_connection((ip, port), min(_CONNECT_SECONDS, _left(deadline, url)))
        except OSError:
            if place == len(ips):
                raise
    raise FetchError(f"{shown(url)} has no address")


def _shut(sock: socket.socket, ended: threading.Event) -> None:
    if not ended.is_set():
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _left(deadline: float, url: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise FetchError(f"{shown(url)} did not come in time")
    return left


class LabelStudio:
    """Label Studio as this backend sees it: its address, and a token for it.

    Args:
        url: Its address, sub-path included; empty where none is known.
        token: Legacy token or personal access token; empty for none.
        policy: What else may be fetched.
        seconds: For a whole fetch.
        limit: Most bytes of a file.
    """

    def __init__(self, url: str, token: str, policy: Policy, seconds: float, limit: int) -> None:
        self.url, self._token, self.policy = url, token, policy
        self.seconds, self._limit = seconds, limit
        self._access: tuple[str, float] | None = None
        self._access_lock = threading.Lock()

    def absolute(self, url: str) -> str:
        """An address that the page uses, in full: paths are below Label Studio's address.

        Raises:
            FetchError: A path, and Label Studio's address is not known.
        """
        if not url.startswith("/"):
            return url
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
        raise FetchError(f"{shown(url)} redirects to what is no address") from error


def _advice(url: str, status: int, home: bool, token: bool) -> str:
    told = f"{shown(url)} answered {status}"
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
