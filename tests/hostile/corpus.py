"""Bad requests, several hundred, made by code: what is sent, to which server, and which statuses are right.

A body may hold `@HOME@`, Label Studio's address, and `@OTHER@`, the same machine at a port that is nobody's; see
`Entry.sent`. What goes over the wire byte for byte is in `wire.py`, image files are in `pictures.py`.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from tests.hostile import pictures
from tests.ls_backend.conftest import BRUSH, SEVERAL, body, click

FUNCTION, BACKEND, BOTH = "function", "backend", "both"
USER, PASSWORD, TOKEN = "team-7f3a", "pass-word-5d21c8", "0e8c4f17token9b35"
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
JSON_TYPE = "application/json"
BAD, FINE = frozenset({400}), frozenset({200})
HARMLESS = frozenset({200, 400})  # taken or refused: either does no harm


@dataclass(frozen=True)
class Entry:
    """A bad request.

    Attributes:
        name: Of its own.
        target: The server it is for; `both` is sent to each.
        right: The statuses that are right.
        make: Makes the body.
        method, path, headers: The rest of the request.
        address: What a task of Label Studio names as its image, for entries about addresses.
    """

    name: str
    target: str
    right: frozenset[int]
    make: Callable[[], bytes]
    method: str = "POST"
    path: str = "/predict"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", JSON_TYPE), ("Authorization", LOGIN))
    address: str | None = None

    def sent(self, home: str = "http://127.0.0.1:8080", other: str = "127.0.0.1:1") -> bytes:
        """The body for a Label Studio at `home`."""
        content = self.make()
        return content.replace(b"@HOME@", home.encode()).replace(b"@OTHER@", other.encode())


def function_body(**changes: Any) -> dict[str, Any]:
    """A good request of CVAT, with some of it changed."""
    image = base64.b64encode(pictures.saved("PNG")).decode()
    return {"image": image, "pos_points": [[30, 30]], "neg_points": [], "obj_bbox": [], **changes}


def backend_body(**changes: Any) -> dict[str, Any]:
    """A good request of Label Studio, with some of it changed."""
    return {**body(click(30, 40, size=(96, 64)), image=inline(pictures.saved("PNG"))), **changes}


def inline(content: bytes, kind: str = "image/png") -> str:
    """A file as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def coded(value: Any) -> Callable[[], bytes]:
    """A value as JSON, made when asked."""
    return lambda: json.dumps(value).encode()


def at(request: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A request with another value at a place."""
    request = copy.deepcopy(request)
    inner: Any = request
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return request


def _texts() -> Iterator[Entry]:
    """Bodies that are no JSON, or JSON of the wrong shape."""
    good = json.dumps(function_body())
    for name, content, right in (
        ("nothing", b"", BAD),
        ("a blank", b" ", BAD),
        ("a word", b"hello", BAD),
        ("a brace", b"{", BAD),
        ("half of it", good[: len(good) // 2].encode(), BAD),
        ("all but the end", good[:-1].encode(), BAD),
        ("two of it", (good + good).encode(), BAD),
        ("single quotes", b"{'image': 'x'}", BAD),
        ("a trailing comma", b'{"image": "x",}', BAD),
        ("a comment", b'{"image": "x" /* no */}', BAD),
        ("bytes that are no text", b"\xff\xfe\xfd{", BAD),
        ("a zero byte", b'{"image": "\0"}', BAD),
        ("zero bytes", bytes(3000), BAD),
        ("a bare list", b"[]", BAD),
        ("a bare number", b"5", BAD),
        ("a bare text", b'"text"', BAD),
        ("null", b"null", BAD),
        ("true", b"true", BAD),
        ("NaN", b"NaN", BAD),
        ("lists 100,000 deep", b"[" * 100_000, BAD),
        ("closed lists 100,000 deep", b"[" * 100_000 + b"]" * 100_000, BAD),
        ("objects 100,000 deep", b'{"a":' * 100_000, BAD),
        ("closed lists 900 deep", b"[" * 900 + b"]" * 900, BAD),
        ("a number of 5,000 digits", b'{"image": ' + b"9" * 5000 + b"}", BAD),
        ("a number of a million digits", b"1" * 1_000_000, BAD),
        ("an exponent of a billion", b"1e999999999", BAD),
        ("a form", b"image=x&pos_points=1", BAD),
        ("XML", b"<?xml version='1.0'?><a/>", BAD),
        ("pickle", b"\x80\x04cos\nsystem\nX\x02\0\0\0id\x85R.", BAD),
        ("UTF-7", b"+AHs-", BAD),
        ("a cut emoji", b'{"image": "\xf0\x9f"}', BAD),
        ("overlong UTF-8", b'{"image": "\xc0\xaf"}', BAD),
        ("a cut escape", b'{"image": "\\u12"}', BAD),
        ("a mark of UTF-8 before it", b"\xef\xbb\xbf[]", BAD),
        ("a million blanks", b" " * 1_000_000, BAD),
        ("a list of a million", b"[" + b"0," * 999_999 + b"0]", BAD),
    ):
        yield Entry(f"text: {name}", BOTH, right, lambda content=content: content)
    yield Entry("text: an empty object to the function", FUNCTION, BAD, lambda: b"{}")


def _types() -> Iterator[Entry]:
    """Every field with what does not belong there."""
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    odd = {
        "null": None,
        "a number": 7,
        "a text": "text",
        "true": True,
        "a list": [[]],
        "an object": {"a": {"b": 1}},
        "deep lists": deep,
    }
    item = ("params", "context", "result", 0)
    places: list[tuple[Any, ...]] = [("tasks",), ("tasks", 0), ("tasks", 0, "data"), ("tasks", 0, "data", "image")]
    places += [("label_config",), ("params",), ("params", "context"), ("params", "context", "result"), item]
    places += [
        (*item, key) for key in ("type", "id", "to_name", "is_positive", "original_width", "item_index", "value")
    ]
    places += [(*item, "value", key) for key in ("x", "y")]
    places += [("tasks", 0, "id")]
    for name, value in odd.items():
        for key in ("image", "pos_points", "neg_points", "obj_bbox"):
            right = FINE if value is None and key != "image" else BAD | {422} if key == "image" else BAD
            yield Entry(f"type: {key} is {name}", FUNCTION, right, coded(function_body(**{key: value})))
        for place in places:
            where = ".".join(map(str, place[-3:]))
            right = frozenset({200, 400, 422, 502})
            yield Entry(f"type: {where} is {name}", BACKEND, right, coded(at(backend_body(), place, value)))
    for key in ("image", "pos_points"):
        yield Entry(
            f"type: no {key}", FUNCTION, HARMLESS, coded({k: v for k, v in function_body().items() if k != key})
        )
    for key in ("tasks", "label_config"):
        yield Entry(f"type: no {key}", BACKEND, BAD, coded({k: v for k, v in backend_body().items() if k != key}))
    for key in ("params", "project"):
        yield Entry(f"type: no {key}", BACKEND, FINE, coded({k: v for k, v in backend_body().items() if k != key}))


def _base64s() -> Iterator[Entry]:
    image = function_body()["image"]
    for name, value, right in (
        ("of no characters it has", "@@@@", BAD),
        ("of one character", "A", BAD),
        ("without its padding", image.rstrip("=")[:-1], BAD),
        ("with padding inside", image[:40] + "==" + image[40:], BAD),
        ("with too much padding", image + "====", BAD | {200, 422}),
        ("with blanks", image[:40] + "  " + image[40:], BAD),
        ("with line breaks", image[:40] + "\r\n" + image[40:], FINE),
        ("with zero bytes", image[:40] + "\0\0" + image[40:], BAD),
        ("of URLs", "-_-_" + image, BAD),
        ("as a data: address", f"data:image/png;base64,{image}", BAD),
        ("twice over", base64.b64encode(image.encode()).decode(), frozenset({422})),
        ("of wide letters", "\uff21\uff21\uff21\uff21", BAD),
        ("with an unpaired surrogate", image + "\ud800", BAD),
        ("with an invisible mark", "\ufeff" + image, BAD),
        ("of a thousand signs of equality", "=" * 1000, BAD | {422}),
        ("of a megabyte of A", "A" * 1_000_000, frozenset({422})),
        ("that is a path", "/etc/passwd", BAD | {422}),
        ("that is an address", "file:///etc/passwd", BAD),
    ):
        yield Entry(f"base64: {name}", FUNCTION, right, coded(function_body(image=value)))
    for name, value, right in (
        ("of no characters it has", "data:image/png;base64,@@@@", BAD),
        ("without its padding", inline(pictures.saved("PNG")).rstrip("=")[:-1], BAD),
        ("without a comma", "data:image/png;base64", BAD),
        ("of nothing at all", "data:", BAD),
        ("of percent signs", "data:image/png;base64,%%%zz", BAD),
        ("said to be a page", inline(pictures.saved("PNG"), "text/html"), FINE),
        ("in capitals", inline(pictures.saved("PNG")).replace("data:", "DATA:"), BAD),
        ("with an unpaired surrogate", inline(pictures.saved("PNG")) + "\ud800", BAD),
        ("in plain text", "data:text/plain,hello%20world", frozenset({422})),
        ("in another", f"data:image/png;base64,{base64.b64encode(inline(b'x').encode()).decode()}", frozenset({422})),
    ):
        yield Entry(
            f"data address: {name}", BACKEND, right, coded(at(backend_body(), ("tasks", 0, "data", "image"), value))
        )


def _prompts() -> Iterator[Entry]:
    """Clicks and boxes beyond reason, for CVAT's function."""
    nan, endless = float("nan"), float("inf")
    for name, changes, right in (
        ("right of the image", {"pos_points": [[200, 30]]}, BAD),
        ("above the image", {"pos_points": [[30, -20]]}, BAD),
        ("off it, negative", {"neg_points": [[30, 300]]}, BAD),
        ("far off", {"pos_points": [[1e8, 1e8]]}, BAD),
        ("further", {"pos_points": [[1e300, -1e300]]}, BAD),
        ("a whole number of 400 digits", {"pos_points": [[10**400, 1]]}, BAD),
        ("no number", {"pos_points": [[nan, nan]]}, BAD),
        ("endless", {"pos_points": [[endless, -endless]]}, BAD),
        ("minus nothing", {"pos_points": [[-0.0, -0.0]]}, FINE),
        ("of one number", {"pos_points": [[1]]}, BAD),
        ("of three", {"pos_points": [[1, 2, 3]]}, BAD),
        ("of none", {"pos_points": [[]]}, BAD),
        ("of texts", {"pos_points": [["1", "2"]]}, BAD),
        ("of truths", {"pos_points": [[True, False]]}, BAD),
        ("of lists", {"pos_points": [[[1], [2]]]}, BAD),
        ("not in a list", {"pos_points": [1, 2]}, BAD),
        ("as an object", {"pos_points": {"x": 1, "y": 2}}, BAD),
        ("101 of them", {"pos_points": [[1, 1]] * 101}, BAD),
        ("101 negative", {"neg_points": [[1, 1]] * 101}, BAD),
        ("100,000 of them", {"pos_points": [[1, 1]] * 100_000}, BAD),
        ("the same one 30 times", {"pos_points": [[30, 30]] * 30}, FINE),
        ("on and off at one place", {"neg_points": [[30, 30]]}, FINE),
        ("a box of one corner", {"obj_bbox": [[1, 1]]}, BAD),
        ("a box of three corners", {"obj_bbox": [[1, 1], [9, 9], [4, 4]]}, BAD),
        ("a box of no area", {"obj_bbox": [[5, 5], [5, 5]]}, BAD),
        ("a box of no width", {"obj_bbox": [[5, 5], [5, 50]]}, BAD),
        ("a box from right to left", {"obj_bbox": [[80, 50], [10, 10]]}, FINE),
        ("a box off the image", {"obj_bbox": [[500, 500], [600, 600]]}, BAD),
        ("a box left of the image", {"obj_bbox": [[-50, -50], [-10, -10]]}, BAD),
        ("a box around the image", {"obj_bbox": [[-1e8, -1e8], [1e8, 1e8]]}, FINE),
        ("a box without end", {"obj_bbox": [[-endless, 1], [endless, 9]]}, BAD),
        ("a box of no numbers", {"obj_bbox": [[nan, nan], [nan, nan]]}, BAD),
        ("a box of 1,000 corners", {"obj_bbox": [[1, 1], [9, 9]] * 500}, BAD),
        ("a box less than a pixel", {"obj_bbox": [[5, 5], [5.0001, 5.0001]]}, HARMLESS),
        ("text alone", {"pos_points": [], "text_prompts": ["a cat"]}, BAD),
        ("a threshold beyond reason", {"threshold": 1e308}, FINE),
        ("a threshold that is none", {"threshold": {"a": []}}, FINE),
        ("keys by the thousand", {f"key{n}": n for n in range(20_000)}, FINE),
        ("a key of a megabyte", {"k" * 1_000_000: 1}, FINE),
        ("a key that Python minds", {"__class__": "x", "__proto__": {}}, FINE),
    ):
        yield Entry(f"prompt: {name}", FUNCTION, right, coded(function_body(**changes)))
    twice = json.dumps(function_body())[:-1] + ', "pos_points": 7}'
    yield Entry("prompt: a key twice, the last is wrong", FUNCTION, BAD, lambda: twice.encode())
    again = '{"pos_points": 7, ' + json.dumps(function_body())[1:]
    yield Entry("prompt: a key twice, the first is wrong", FUNCTION, FINE, lambda: again.encode())
    wide = json.dumps(function_body())
    for coding in ("utf-16", "utf-32", "utf-8-sig"):
        yield Entry(f"prompt: a good request in {coding}", FUNCTION, HARMLESS, lambda c=coding: wide.encode(c))


def _pictures() -> Iterator[Entry]:
    from tests.hostile.deep_pictures import deep_pictures

    for name, (make, right) in (pictures.all_pictures() | deep_pictures()).items():
        yield Entry(f"picture: {name}", FUNCTION, right, partial(_to_function, make))
        yield Entry(f"picture: {name} (Label Studio)", BACKEND, right, partial(_to_backend, make))
    yield Entry("picture: no bytes", FUNCTION, BAD, coded(function_body(image="")))
    yield Entry("picture: no bytes (Label Studio)", BACKEND, frozenset({422}), lambda: _to_backend(lambda: b""))


def _to_function(make: Callable[[], bytes]) -> bytes:
    image = base64.b64encode(make()).decode()
    return json.dumps(function_body(image=image, pos_points=[[3, 3]])).encode()


def _to_backend(make: Callable[[], bytes]) -> bytes:
    item = click(30, 40)
    del item["original_width"], item["original_height"]  # whatever the file's size is
    return json.dumps(body(item, image=inline(make()))).encode()


def _headers() -> Iterator[Entry]:
    """Content types and logins that are not what they should be."""
    login = ("Authorization", LOGIN)
    for kind, right in (
        ("text/plain", FINE),
        ("application/json; charset=utf-16", FINE),
        ("application/x-www-form-urlencoded", FINE),
        ("multipart/form-data; boundary=x", FINE),
        ("application/json" + ";a=b" * 500, FINE),
        ("image/png", FINE),
        ("\x7f", FINE),
        ("", FINE),
    ):
        shown = kind[:40].encode("unicode_escape").decode()
        headers = (("Content-Type", kind), login)
        yield Entry(f"header: function, type {shown!r}", FUNCTION, right, coded(function_body()), headers=headers)
        yield Entry(f"header: backend, type {shown!r}", BACKEND, right, coded(backend_body()), headers=headers)
    packed = (("Content-Type", JSON_TYPE), ("Content-Encoding", "gzip"), login)
    yield Entry("header: said to be packed", BOTH, BAD, lambda: b"\x1f\x8b\x08\0" + bytes(50), headers=packed)
    wrong = base64.b64encode(f"{USER}:guess".encode()).decode()
    for name, value in (
        ("none", None),
        ("a wrong password", f"Basic {wrong}"),
        ("no base64", "Basic @@@"),
        ("base64 of no colon", "Basic " + base64.b64encode(b"user").decode()),
        ("base64 of no text", "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()),
        ("base64 of zero bytes", "Basic " + base64.b64encode(b"\0:\0").decode()),
        ("another scheme", "Bearer " + TOKEN),
        ("Label Studio's own token", "Token " + TOKEN),
        ("a digest", 'Digest username="team", realm="x"'),
        ("a scheme without words", "Basic"),
        ("a blank", " "),
        ("100 KB", "Basic " + "A" * 100_000),
    ):
        headers = (("Content-Type", JSON_TYPE), *([("Authorization", value)] if value is not None else []))
        yield Entry(f"login: {name}", BACKEND, frozenset({401}), coded(backend_body()), headers=headers)


def _routes() -> Iterator[Entry]:
    for method, path, right in (
        ("GET", "/predict", 405),
        ("DELETE", "/predict", 405),
        ("PUT", "/setup", 405),
        ("PATCH", "/", 405),
        ("POST", "/health", 405),
        ("TRACE", "/health", 405),
        ("POST", "/none", 404),
        ("POST", "/predict/", 404),
        ("POST", "/predict/../admin", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/static/../../ls_backend/app.py", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/%00", 404),
        ("GET", "/%0d%0aSet-Cookie:%20a=b", 404),
        ("GET", "/{{7*7}}", 404),
        ("GET", "/<script>alert(1)</script>", 404),
        ("GET", "/\u2028\u2028", 404),
        ("GET", "/" + "a" * 3000, 404),
        ("GET", "/metrics/../health", 404),
        ("GET", "/.git/config", 404),
        ("GET", "/console", 404),
        ("BREW", "/predict", 405),
    ):
        shown = path[:40].encode("unicode_escape").decode()
        yield Entry(f"route: {method} {shown}", BACKEND, frozenset({right}), lambda: b"{}", method=method, path=path)
    for path in ("/setup", "/webhook", "/versions"):
        for name, content in (("nothing", b""), ("no JSON", b"\xff{"), ("lists 100,000 deep", b"[" * 100_000)):
            right = frozenset({200, 400})
            yield Entry(f"route: {path} with {name}", BACKEND, right, lambda content=content: content, path=path)
    yield Entry(
        "route: a body over the limit", BACKEND, frozenset({413}), lambda: b'{"tasks": "' + b"x" * (9 << 20) + b'"}'
    )


@cache
def entries() -> tuple[Entry, ...]:
    """All of them."""
    from tests.hostile import configs, edges, studio

    own = (_texts, _types, _base64s, _prompts, _headers, _routes)
    backends = (studio.addresses, edges.outside, configs.written, configs.filled, studio.contexts, edges.webhooks)
    return (*(entry for group in (*own, *backends) for entry in group()), *_pictures())


@cache
def over_http(target: str) -> tuple[Entry, ...]:
    """What any client can send to a target; less what servers may hang up on before it is sent.

    A head that is too long the servers refuse themselves, before a login is looked at.
    """
    found = []
    for entry in entries():
        sendable = entry.path.isascii() and all(value.isprintable() for _, value in entry.headers)
        if entry.target in (target, BOTH) and sendable and len(entry.make()) < 2 << 20:
            too_long = any(len(value) > 8190 for _, value in entry.headers)
            found.append(replace(entry, right=entry.right | {431}) if too_long else entry)
    return tuple(found)


__all__ = ["BACKEND", "BOTH", "BRUSH", "FUNCTION", "SEVERAL", "Entry", "entries", "over_http"]
