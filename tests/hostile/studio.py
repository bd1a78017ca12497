"""Bad requests that only Label Studio's backend understands, and a Label Studio that answers what it should not."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

from skimage import data

from tests.hostile.corpus import BACKEND, BAD, FINE, HARMLESS, Entry, at, backend_body, coded, inline
from tests.hostile.pictures import saved
from tests.ls_backend.conftest import click, png

REFUSED = frozenset({400, 403})
NOT_HAD = frozenset({400, 403, 502})
IMAGE = ("tasks", 0, "data", "image")
ITEM = ("params", "context", "result", 0)

NUMERIC = (
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://2852039166/latest/meta-data",
    "http://0xA9FEA9FE/latest",
    "http://0251.0376.0251.0376/latest",
    "http://0xa9.0xfe.0xa9.0xfe/latest",
    "http://169.16689662/latest",
    "http://[::ffff:169.254.169.254]/latest",
    "http://[::ffff:a9fe:a9fe]/latest",
    "http://[64:ff9b::a9fe:a9fe]/latest",
    "http://[2002:a9fe:a9fe::]/latest",
    "http://[fd00:ec2::254]/latest",
    "http://127.0.0.1:1/x.png",
    "http://127.1:1/x.png",
    "http://127.0.0.2:1/x.png",
    "http://2130706433:1/x.png",
    "http://0x7f000001:1/x.png",
    "http://017700000001:1/x.png",
    "http://0177.0.0.1:1/x.png",
    "http://0.0.0.0:1/x.png",
    "http://0:1/x.png",
    "http://[::1]:1/x.png",
    "http://[::]:1/x.png",
    "http://[0:0:0:0:0:0:0:1]:1/x.png",
    "http://[::ffff:127.0.0.1]:1/x.png",
    "http://[::127.0.0.1]:1/x.png",
    "http://[fe80::1]:1/x.png",
    "http://localhost:1/x.png",
    "http://localhost.:1/x.png",
    "http://LOCALHOST:1/x.png",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:1/x.png",
    "http://127\u30020\u30020\u30021:1/x.png",
    "http://10.0.0.1/x.png",
    "http://192.168.0.1/x.png",
    "http://172.16.0.1/x.png",
    "http://100.64.0.1/x.png",
    "http://255.255.255.255/x.png",
    "http://224.0.0.1/x.png",
    "https://127.0.0.1:1/x.png",
)
"""Addresses that no setting but an exact name may open; none of them needs a look-up of a name."""


def addresses() -> Iterator[Entry]:
    """Where a task's image is said to be."""
    listed: list[tuple[str, frozenset[int]]] = [(address, REFUSED) for address in NUMERIC]
    listed += [
        (address, REFUSED)
        for address in (
            "file:///etc/passwd",
            "FILE:///etc/passwd",
            "file://localhost/etc/passwd",
            "gopher://127.0.0.1:6379/_SET%20a%20b",
            "ftp://127.0.0.1/x.png",
            "dict://127.0.0.1:11211/stats",
            "ldap://127.0.0.1/x",
            "jar:http://127.0.0.1/x.zip!/x.png",
            "javascript:alert(1)",
            "vbscript:x",
            "blob:http://127.0.0.1/x",
            "ws://127.0.0.1/x",
            "unix:/var/run/docker.sock",
            "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
            "\\\\127.0.0.1\\share\\x.png",
            "C:\\x.png",
            "../../etc/passwd",
            "etc/passwd",
            "http:",
            "http://",
            "http:///x.png",
            "http://:80/x.png",
            "http://@/x.png",
            "http:/127.0.0.1:1/x.png",
            "http:127.0.0.1:1/x.png",
            "http:\\\\127.0.0.1:1\\x.png",
            "hTtP://127.0.0.1:1/x.png",
            "http://127.0.0.1:99999/x.png",
            "http://127.0.0.1:-1/x.png",
            "http://127.0.0.1:http/x.png",
            "http://127.0.0.1:\u0661/x.png",
            "http://[bad/x.png",
            "http://[::1/x.png",
            "http://[v1.x]/x.png",
            "http://example.org/x.png",
            "http://example.org:80@127.0.0.1:1/x.png",
            "http://user:word@127.0.0.1:1/x.png",
            "http://127.0.0.1:1#@example.org/x.png",
            "http://127.0.0.1:1\\@example.org/x.png",
            "http://127.0.0.1:1%2f@example.org/x.png",
            "http://127.0.0.1.example.org/x.png",
            "http://127.0.0.1:1?@example.org/x.png",
            "http://xn--a.example/x.png",
            "http://" + "a" * 300 + ".example/x.png",
            "http://" + "a." * 3000 + "example/x.png",
            "http://a..b/x.png",
            "http://\u0430pple.example/x.png",
            "http://127.0.0.1:1\r\nHost: evil/x.png",
            "http://127.0.0.1:1/x.png\r\nX-Evil: 1",
            " http://127.0.0.1:1/x.png",
            "\thttp://127.0.0.1:1/x.png",
            "http://127.0.0.1:1\t/x.png",
            "http://127.0.0.1%00.example/x.png",
            "http://127.0.0.1:1\0/x.png",
            "http://@OTHER@/x.png",
        )
    ]
    listed += [
        (address, NOT_HAD)
        for address in (
            "//127.0.0.1:1/x.png",
            "/\\127.0.0.1:1/x.png",
            "/data/local-files/?d=../../etc/passwd",
            "/data/local-files/?d=/etc/passwd",
            "/data/local-files/?d=..%2f..%2fetc%2fpasswd",
            "/data/local-files/?d=%252e%252e%252fetc%252fpasswd",
            "/data/local-files/?d=....//....//etc/passwd",
            "/data/local-files/?d=..\\..\\windows\\win.ini",
            "/data/local-files/?d=/proc/self/environ",
            "/data/local-files/?d=%00/etc/passwd",
            "/data/upload/../../etc/passwd",
            "/data/upload/1/none.png\r\nX-Evil: 1\r\n",
            "/data/upload/1/none.png HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET /stolen",
            "/data/upload/1/\u2028.png",
            "/data/upload/1/" + "a" * 100_000,
            "/data/upload/1/" + "%" * 500,
            "/hostile/file",
            "/hostile/gopher",
            "/hostile/metadata",
            "/hostile/private",
            "/hostile/otherport",
            "/hostile/broken-address",
            "/hostile/broken-port",
            "/hostile/userinfo",
            "/hostile/circle",
            "/hostile/empty",
            "/hostile/crlf",
            "/hostile/nothing",
            "/hostile/noise",
            "/hostile/status",
            "/hostile/headers",
            "/hostile/header-line",
            "/hostile/short",
            "/hostile/chunks",
            "/hostile/chunk-size",
            "/hostile/page",
            "/hostile/teapot",
            "/hostile/latin",
            "s3://shelf/none.png",
            "s3://" + "x" * 5000,
            "s3://\r\nX-Evil: 1",
            "gs://../../etc/passwd",
            "azure-blob://\u2028",
        )
    ]
    listed += [
        ("/hostile/bomb", frozenset({413})),
        ("/hostile/length", frozenset({413})),
        ("/hostile/length-of-minus", frozenset({422, 502})),
        ("/hostile/text", frozenset({422})),
        ("@HOME@/hostile/text", frozenset({422})),
    ]
    for address, right in listed:
        shown = address[:60].encode("unicode_escape").decode()
        make = coded(at(backend_body(), IMAGE, address))
        yield Entry(f"address: {shown}", BACKEND, right, make, address=address)


def contexts() -> Iterator[Entry]:
    """Clicks and regions beyond reason, and tasks by the thousand."""
    nan, endless = float("nan"), float("inf")
    good = click(30, 40, size=(96, 64))
    box = {**good, "type": "rectanglelabels"}

    def with_value(item: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return at(backend_body(), ITEM, {**item, "value": {**item["value"], **changes}})

    def with_item(**changes: Any) -> dict[str, Any]:
        return at(backend_body(), ITEM, {**good, **changes})

    result = ("params", "context", "result")
    cases: list[tuple[str, dict[str, Any], frozenset[int]]] = [
        *(
            (f"a click at x = {value!r}"[:60], with_value(good, x=value), BAD)
            for value in (140, -30, 1e300, nan, endless)
        ),
        ("a click at a number of 400 digits", with_value(good, y=10**400), BAD),
        ("a click just at the edge", with_value(good, x=100.4, y=-0.4), FINE),
        ("a rectangle of no width", with_value(box, width=0, height=9), BAD),
        ("a rectangle of no area", with_value(box, width=0, height=0), BAD),
        ("a rectangle of negative size", with_value(box, width=-10, height=-10), HARMLESS),
        ("a rectangle off the image", with_value(box, x=300, y=300, width=9, height=9), BAD),
        ("a rectangle around it all", with_value(box, x=-1e5, y=-1e5, width=1e6, height=1e6), HARMLESS),
        ("a rectangle of no numbers", with_value(box, width=nan, height=nan), BAD),
        ("a rectangle turned without end", with_value(box, width=9, height=9, rotation=endless), BAD),
        ("a rectangle turned a million times", with_value(box, width=9, height=9, rotation=9e5), HARMLESS),
        *(
            (f"a region of type {kind}", with_item(type=kind), BAD)
            for kind in ("polygon", "brushlabels", "choices", "")
        ),
        ("a region of type with a line break", with_item(type="a\nERROR forged"), BAD),
        ("a region of a type of a megabyte", with_item(type="t" * 1_000_000), BAD),
        ("a region of another image", with_item(to_name="other\r\nERROR forged"), BAD),
        ("a region of an image of a megabyte", with_item(to_name="n" * 1_000_000), BAD),
        ("a label that is none", with_value({**good, "type": "keypointlabels"}, keypointlabels=["Dog\nERROR"]), BAD),
        ("labels by the thousand", with_value(good, keypointlabels=["Cat"] * 5000), FINE),
        ("an id of a megabyte", with_item(id="i" * 1_000_000), FINE),
        ("an id of an unpaired surrogate", with_item(id="\ud800"), FINE),
        ("a width of none", with_item(original_width=0), BAD),
        ("a width of no number", with_item(original_width=nan), BAD),
        ("a width of a billion", with_item(original_width=10**9), BAD),
        ("another width", with_item(original_width=97), frozenset({422})),
        ("an index of minus one", with_item(item_index=-1), FINE),
        ("an index of a billion", with_item(item_index=10**9), FINE),
        ("an index of a half", with_item(item_index=0.5), BAD),
        ("is_positive as text", with_item(is_positive="yes"), BAD),
        ("is_positive as a number", with_item(is_positive=2), BAD),
        ("201 clicks", at(backend_body(), result, [{**good, "id": f"k{n}"} for n in range(201)]), BAD),
        ("2,001 regions", at(backend_body(), result, [good] * 2001), BAD),
        ("one click 400 times", at(backend_body(), result, [good] * 400), FINE),
        ("50,000 regions", at(backend_body(), result, [{}] * 50_000), BAD),
        ("a click on each of two images", at(backend_body(), result, [good, {**good, "to_name": "x"}]), BAD),
        ("no regions", at(backend_body(), result, []), FINE),
        ("an empty context", at(backend_body(), ("params", "context"), {}), FINE),
        ("5,000 tasks", {**backend_body(), "tasks": backend_body()["tasks"] * 5000}, FINE),
        ("5,000 tasks without a click", {**backend_body(), "tasks": [{"id": 1}] * 5000, "params": {}}, FINE),
        ("no tasks", {**backend_body(), "tasks": []}, BAD),
        ("a task id of lines", at(backend_body(), ("tasks", 0, "id"), "7\n2026 ERROR forged"), BAD),
        ("a task id of colours", at(backend_body(), ("tasks", 0, "id"), "\x1b[31m7"), BAD),
        ("a task id of a megabyte", at(backend_body(), ("tasks", 0, "id"), "7" * 1_000_000), BAD),
        ("a task id of 400 digits", at(backend_body(), ("tasks", 0, "id"), 10**399), BAD),
        ("a task id to presign with", _presigned("7/../../admin"), REFUSED),
        ("a task id of other digits", _presigned("\u0667\u00b2"), NOT_HAD),
        ("a valueList of 100,000", at(backend_body(), IMAGE, ["x"] * 100_000), BAD),
        ("a valueList of lists", at(backend_body(), IMAGE, [[inline(saved("PNG"))]]), BAD),
    ]
    for name, request, right in cases:
        yield Entry(f"context: {name}", BACKEND, right, coded(request))


def _presigned(task: str) -> dict[str, Any]:
    return at(at(backend_body(), IMAGE, "s3://shelf/x.png"), ("tasks", 0, "id"), task)


def _told(head: str, content: bytes = b"", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{head}Connection: close\r\n\r\n".encode("latin-1") + content


def _to(place: str) -> bytes:
    return _told(f"Location: {place}\r\nContent-Length: 0\r\n", status="302 Found")


SILENCE = b"(nothing, for ten seconds)"


class HostileStudio(socketserver.ThreadingTCPServer):
    """Sends a few bytes for each path, whatever they are, and remembers what it was asked."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[bytes] = []
        cat = png(data.chelsea())
        self.files = {
            "/data/upload/1/cat.png": _told(f"Content-Length: {len(cat)}\r\n", cat),
            "/health": _told("Content-Length: 2\r\n", b"UP"),
        }
        self.files |= {
            f"/hostile/{name}": content
            for name, content in {
                "file": _to("file:///etc/passwd"),
                "gopher": _to("gopher://127.0.0.1:1/_x"),
                "metadata": _to("http://169.254.169.254/latest/meta-data"),
                "private": _to("http://10.0.0.1/x.png"),
                "otherport": _to("http://127.0.0.1:1/x.png"),
                "broken-address": _to("http://[bad"),
                "broken-port": _to("http://127.0.0.1:99999/x"),
                "userinfo": _to("http://user:word@127.0.0.1:1/x"),
                "circle": _to("/hostile/circle"),
                "empty": _to(""),
                "crlf": _to("/x%0d%0aX-Evil: 1"),
                "latin": _to("/\xff\xfe\xfd"),
                "nothing": b"",
                "silent": SILENCE,
                "noise": bytes(range(256)) * 9,
                "status": b"HTTP/1.1 9999999 What\r\n\r\n",
                "headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(500)) + b"\r\n",
                "header-line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
                "short": _told("Content-Length: 1000\r\n", b"x" * 10),
                "chunks": _told("Transfer-Encoding: chunked\r\n", b"zz\r\nhello"),
                "chunk-size": _told("Transfer-Encoding: chunked\r\n", b"f" * 5000 + b"\r\n"),
                "page": _told("Content-Type: text/html\r\nContent-Length: 5\r\n", b"hello"),
                "teapot": _told("Content-Length: 0\r\n", status="418 I am a teapot"),
                "bomb": _told("", b"x" * (5 << 20)),
                "length": _told("Content-Length: 999999999999\r\n", b"x"),
                "length-of-minus": _told("Content-Length: -5\r\n", b"x"),
                "text": _told("Content-Length: 5\r\n", b"hello"),
            }.items()
        }
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Asked(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline(1 << 20)
            if not line:
                return
            head += line
        self.server.asked.append(head)
        path = head.split(b" ", 2)[1].decode("latin-1")
        missing = _told("Content-Length: 0\r\n", status="404 Not Found")
        content = self.server.files.get(path, missing)
        if content is SILENCE:
            self.rfile.read(1)  # until the other one has enough of it
        else:
            self.wfile.write(content)


def good_request() -> bytes:
    """A click on the cat that the studio has."""
    from tests.ls_backend.conftest import body

    return json.dumps(body(click(40, 40), task=1)).encode()
