"""One question to a server, for checks: straight to it, without following redirects."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from icmformer.errors import IcmformerError

_LIMIT = 4 << 20
_PORTS = {"http": 80, "https": 443}


class NoAnswerError(IcmformerError, ConnectionError):
    """A server that cannot be asked."""


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: HTTP status.
        content: At most 4 MB.
        location: Where a redirect leads.
        clock_offset: Seconds by which this machine's clock is ahead of the server's; None where it does not say.
    """

    status: int
    content: bytes
    location: str | None = None
    clock_offset: float | None = None

    def json(self) -> Any:
        """The content as JSON; None where it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


def ask(url: str, headers: Mapping[str, str] | None = None, seconds: float = 5.0, body: Any = None) -> Answer:
    """One GET; one POST where there is a body.

    Args:
        url: An http or https address.
        headers: Headers; they go to this server alone.
        seconds: Patience with each step.
        body: Sent as JSON.

    Raises:
        NoAnswerError: No address, no connection, or no HTTP there; the text has the cause.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise NoAnswerError(f"that is no address: {error}") from error
    if not (host and port) or parts.username is not None or any(not 32 < ord(c) < 127 for c in url):
        raise NoAnswerError("that is no address like https://cvat.example.org, without user name and blanks")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=seconds)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    method, content, kind = "GET", None, {}
    if body is not None:
        method, content, kind = "POST", json.dumps(body), {"Content-Type": "application/json"}
    try:
        asked = time.time()
        connection.request(method, path, content, {"Accept": "application/json, */*", **kind, **(headers or {})})
        response = connection.getresponse()
        offset = clock_offset(response.getheader("Date"), (asked + time.time()) / 2)
        return Answer(response.status, response.read(_LIMIT), response.getheader("Location"), offset)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(f"{parts.scheme}://{host}:{port} {_cause(error)}") from error
    finally:
        connection.close()


def clock_offset(date: str | None, now: float) -> float | None:
    """Seconds by which a clock that shows `now` is ahead of a server's Date header; None where that tells nothing."""
    try:
        there = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    if there.tzinfo is None:
        there = there.replace(tzinfo=UTC)
    return (datetime.fromtimestamp(now, UTC) - there).total_seconds()


def _cause(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "cannot be found: the name does not resolve"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections: nothing listens there"
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"has a certificate that is not trusted here ({error.verify_message}); SSL_CERT_FILE can name its issuer's"
        )
    if isinstance(error, ssl.SSLError):
        return "does not speak https"
    if isinstance(error, http.client.HTTPException | ValueError):
        return f"does not speak http ({type(error).__name__})"  # not its text, which may quote a header
    reason = error.strerror if isinstance(error, OSError) else ""
    return f"cannot be reached: {reason or type(error).__name__}"
