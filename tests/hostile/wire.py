"""What is no proper HTTP, or HTTP that lies: byte by byte, for the two real servers.

Each case has the statuses that are right for the function's local server and for the backend (gunicorn); 0 is a
connection that the server closes without a word, which for what is no HTTP at all is right as well.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, field

from tests.hostile.corpus import LOGIN, backend_body, function_body

CLOSED = frozenset({0})
REFUSED = frozenset({400, 404, 405, 411, 413, 414, 417, 431, 501, 505})
NO = CLOSED | REFUSED
ANY = NO | {200}


@dataclass(frozen=True)
class Case:
    """Bytes to send.

    Attributes:
        name: Of its own.
        pieces: Sent one after the other, with a pause between them.
        function: Statuses that are right for the function.
        backend: Statuses that are right for the backend.
        pause: Seconds between the pieces.
        leave: Whether to break the connection off instead of waiting for a reply.
    """

    name: str
    pieces: tuple[bytes, ...] = field(repr=False)
    function: frozenset[int]
    backend: frozenset[int]
    pause: float = 0.0
    leave: bool = False


def head(start: bytes = b"POST /predict HTTP/1.1", *lines: bytes) -> bytes:
    """A request's head with a login."""
    return b"\r\n".join((start, b"Host: x", b"Authorization: " + LOGIN.encode(), *lines, b"", b""))


def posted(
    content: bytes, *lines: bytes, length: bytes | None = None, start: bytes = b"POST /predict HTTP/1.1"
) -> bytes:
    """A whole request; its length may lie."""
    told = str(len(content)).encode() if length is None else length
    return head(start, b"Content-Type: application/json", b"Content-Length: " + told, *lines) + content


def chunked(*chunks: bytes, size: bytes | None = None) -> bytes:
    """A body in chunks; their size may lie."""
    return b"".join((size or b"%x" % len(c)) + b"\r\n" + c + b"\r\n" for c in chunks) + b"0\r\n\r\n"


def cases() -> tuple[Case, ...]:
    """All of them."""
    bad = b'{"image": 1, "params": 3}'
    te = b"Transfer-Encoding: chunked"
    listed = [
        ("bytes of every value", bytes(range(256)) * 3 + b"\r\n\r\n", NO, NO),
        ("zero bytes", bytes(1000) + b"\r\n\r\n", NO, NO),
        ("a greeting of TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n", NO, NO),
        ("a greeting of SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", NO, NO),
        ("a mail", b"EHLO x\r\nMAIL FROM:<a@b>\r\n\r\n", NO, NO),
        ("Redis", b"*1\r\n$4\r\nINFO\r\n\r\n", NO, NO),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NO, NO),
        ("a PROXY line", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET / HTTP/1.1\r\n\r\n", NO, NO),
        ("HTTP 9.9", head(b"POST / HTTP/9.9"), NO, NO),
        ("HTTP of no number", head(b"POST / HTTP/x.y"), NO, NO),
        ("no version", b"POST /\r\n\r\n", NO, NO),
        ("no path", b"POST  HTTP/1.1\r\n\r\n", NO, NO),
        ("too many words", head(b"POST / a b HTTP/1.1"), NO, NO),
        ("a path of 100 KB", head(b"POST /" + b"a" * 100_000 + b" HTTP/1.1"), NO, NO),
        ("a header of 100 KB", head(b"POST /predict HTTP/1.1", b"X-Long: " + b"a" * 100_000), NO, NO),
        ("1,000 headers", head(b"POST /predict HTTP/1.1", *[b"X-%d: a" % n for n in range(1000)]), NO, NO),
        ("a header without a colon", head(b"POST /predict HTTP/1.1", b"nonsense"), NO, NO),
        ("a header without a name", head(b"POST /predict HTTP/1.1", b": x"), NO, NO),
        ("a header with a zero byte", head(b"POST /predict HTTP/1.1", b"X-Zero: a\0b"), NO, NO),
        ("a header name with a blank", head(b"POST /predict HTTP/1.1", b"X Y : a"), NO, NO),
        ("a folded header", head(b"POST /predict HTTP/1.1", b"X-A: a\r\n b"), NO, NO),
        ("a header in Latin", posted(bad, b"X-A: \xff\xfe\xe9"), REFUSED, NO),
        ("no Host", b"GET /health HTTP/1.1\r\n\r\n", ANY, ANY),
        ("a wrong Host", posted(bad).replace(b"Host: x", b"Host: evil.example"), REFUSED, REFUSED),
        ("a Host of signs", posted(bad).replace(b"Host: x", b"Host: <script>@\xff:99999"), NO, NO),
        ("two Hosts", posted(bad, b"Host: y"), REFUSED, NO),
        ("a length of minus one", posted(bad, length=b"-1"), NO, NO),
        ("a length with a sign", posted(bad, length=b"+5"), NO, NO),
        ("a length in hex", posted(bad, length=b"0x19"), NO, NO),
        ("a length of two", posted(bad, length=b"5, 5"), NO, NO),
        ("a length of blanks", posted(bad, length=b""), NO, NO),
        ("a length of other digits", posted(bad, length="\u0665".encode()), NO, NO),
        ("a length of 40 digits", posted(bad, length=b"9" * 40), NO, NO),
        ("a length of 5,000 digits", posted(bad, length=b"9" * 5000), NO, NO),
        ("a length of 10 GB", posted(b"", length=b"10000000000"), NO, NO),
        ("two lengths", posted(bad, b"Content-Length: 3"), NO, NO),
        ("a length too short", posted(b'{"a": 1}' + b"GET /none HTTP/1.1\r\n\r\n", length=b"8"), ANY, ANY),
        ("no length", head(b"POST /predict HTTP/1.1") + bad, NO, NO),
        ("a length and chunks", posted(chunked(bad), te), NO, NO),
        ("chunks", head(b"POST /predict HTTP/1.1", te) + chunked(bad, b" "), NO, REFUSED),
        ("chunks of wrong size", head(b"POST /predict HTTP/1.1", te) + chunked(bad, size=b"fff"), NO, NO),
        ("chunks of no size", head(b"POST /predict HTTP/1.1", te) + chunked(bad, size=b"zz"), NO, NO),
        ("chunks of negative size", head(b"POST /predict HTTP/1.1", te) + chunked(bad, size=b"-19"), NO, NO),
        ("chunks of 2^64", head(b"POST /predict HTTP/1.1", te) + chunked(bad, size=b"1" + b"0" * 16), NO, NO),
        ("chunks with 100 KB of more", head(b"POST /x HTTP/1.1", te) + b"1;" + b"a" * 100_000 + b"\r\nx\r\n", NO, NO),
        ("packed chunks", head(b"POST /predict HTTP/1.1", b"Transfer-Encoding: gzip, chunked") + chunked(bad), NO, NO),
        ("another coding", head(b"POST /predict HTTP/1.1", b"Transfer-Encoding: xchunked") + bad, NO, NO),
        ("chunks in HTTP/1.0", head(b"POST /predict HTTP/1.0", te) + chunked(bad), NO, NO),
        ("a method unknown", head(b"BREW /predict HTTP/1.1"), NO, NO),
        ("a method in small letters", head(b"post /predict HTTP/1.1"), NO, NO),
        ("a method of 5 KB", head(b"A" * 5000 + b" / HTTP/1.1"), NO, NO),
        ("a tunnel", head(b"CONNECT evil.example:80 HTTP/1.1"), NO, NO),
        ("a trace", head(b"TRACE / HTTP/1.1"), NO, NO),
        ("options of all", head(b"OPTIONS * HTTP/1.1"), NO, ANY),
        ("another's address", posted(bad, start=b"POST http://evil.example/predict HTTP/1.1"), REFUSED, REFUSED),
        ("a path of colours", head(b"GET /\x1b[31m\x07 HTTP/1.1"), NO, NO),
        ("a path of Latin", head(b"GET /\xff\xfe HTTP/1.1"), NO, NO),
        ("line feeds alone", posted(bad).replace(b"\r\n", b"\n"), REFUSED, NO),
        ("carriage returns alone", b"GET /health HTTP/1.1\rHost: x\r\r\r\n\r\n", ANY, NO),
        ("an expectation", posted(bad, b"Expect: 100-continue"), REFUSED | {100}, REFUSED | {100}),
        ("another expectation", posted(bad, b"Expect: 200-ok"), NO, NO),
        ("an upgrade", head(b"GET /none HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket"), NO, NO),
        ("a method in a header", posted(bad, b"X-HTTP-Method-Override: DELETE"), REFUSED, REFUSED),
        ("a look-up for the log", posted(bad, b"User-Agent: ${jndi:ldap://127.0.0.1:1/a}"), REFUSED, REFUSED),
        ("a script name", posted(bad, b"SCRIPT_NAME: /predict"), REFUSED, NO),
        ("forwarded from elsewhere", posted(bad, b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: ::1"), REFUSED, REFUSED),
    ]
    made = [Case(name, (content,), function, backend) for name, content, function, backend in listed]
    slow = posted(bad)
    half = json.dumps(function_body() | backend_body()).encode()
    pieces = tuple(slow[n : n + 20] for n in range(0, len(slow), 20))
    letters = (slow[:-20], *(slow[n : n + 1] for n in range(-20, -1)), slow[-1:])
    return (
        *made,
        Case("a body cut off", (posted(half[:500], length=str(len(half)).encode()),), NO, NO, leave=True),
        Case("a head cut off", (slow[:30],), NO, NO, leave=True),
        Case("a head piece by piece", pieces, REFUSED, REFUSED, 0.1),
        Case("a body byte by byte", letters, REFUSED, REFUSED, 0.05),
    )


def sent(port: int, case: Case, wait: float = 25.0) -> tuple[int, bytes]:
    """Sends a case; the reply's status, 0 where there was none, and all of it."""
    told = b""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(wait)
        try:
            for piece in case.pieces:
                connection.sendall(piece)
                time.sleep(case.pause)
            if case.leave:
                return 0, b""
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                told += piece
        except OSError:  # reset, or no answer in time: who calls looks at the time
            pass
    words = told.split(b" ", 2)
    return (int(words[1]) if told.startswith(b"HTTP/") and words[1].isdigit() else 0), told
