"""Fetching over http(s) with nothing left to chance: pinned addresses, no silent redirects, time and size limits."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

from icmformer.errors import IcmformerError
from ls_backend.addresses import Policy, shown, split
from ls_backend.errors import FetchError, TooLargeError

_CONNECT_SECONDS = 5.0
_PIECE = 1 << 16
_REDIRECTS = 4


@dataclass(frozen=True)
class Reply:
    """What a server said: status, content and where a redirect leads."""

    status: int
    content: bytes
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
    ip, port = policy.resolve(url, public_redirect)
    parts = split(url)
    host = parts.hostname or ""
    wait = min(_CONNECT_SECONDS, _left(deadline, url))
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=wait, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=wait)
    # The address that was checked is the one connected to: a second look-up of the name could say something else.
    connection._create_connection = (  # type: ignore[attr-defined]
        lambda _address, timeout, source: socket.create_connection((ip, port), timeout, source)
    )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.connect()
        connection.sock.settimeout(_left(deadline, url))
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
            connection.sock and connection.sock.settimeout(_left(deadline, url))
        return Reply(response.status, bytes(content), response.getheader("Location"))
    except IcmformerError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchError(f"{shown(url)} could not be fetched: {error or type(error).__name__}") from error
    finally:
        connection.close()


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
        self._seconds, self._limit = seconds, limit
        self._access: tuple[str, float] | None = None

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

    def fetch(self, url: str, from_presign: bool = False) -> bytes:
        """A file's content; redirects are followed as far as the policy allows, the token goes to Label Studio alone.

        Args:
            url: In full.
            from_presign: Label Studio answers with a redirect to the storage, which may be any public host.

        Raises:
            FetchError: And what `request` raises; the text says what to do.
        """
        deadline = time.monotonic() + self._seconds
        trusted_redirect = False
        for _ in range(_REDIRECTS):
            home = self.policy.is_home(url)
            reply = self._get(url, deadline, home, trusted_redirect)
            if reply.status in (301, 302, 303, 307, 308) and reply.location:
                trusted_redirect = home and from_presign
                url = urljoin(url, reply.location)
                continue
            if reply.status == 200:
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
        if self._access is None or self._access[1] < time.monotonic():
            self._access = self._exchanged(deadline), time.monotonic() + 240  # Label Studio's last 300 s
        return {"Authorization": f"Bearer {self._access[0]}"}

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


def _advice(url: str, status: int, home: bool, token: bool) -> str:
    told = f"{shown(url)} answered {status}"
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
