"""Bad requests at the edges of Label Studio's backend: the webhook, which anybody may call, and other applications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.hostile.corpus import BACKEND, BAD, FINE, JSON_TYPE, LOGIN, Entry, at, backend_body, coded

OUTSIDE = (
    "/other-app/x.png",
    "/label-studio/../other-app/x.png",
    "/label-studio/./../other-app/x.png",
    "/label-studio/%2e%2e/other-app/x.png",
    "/label-studio/.%2E/other-app/x.png",
    "/label-studio/%252e%252e/other-app/x.png",
    "/label-studio/%25252525252e%25252525252e/other-app/x.png",
    "/label-studio/..%2fother-app/x.png",
    "/label-studio/..%5cother-app/x.png",
    "/label-studio/..\\other-app/x.png",
    "/label-studio/..;/other-app/x.png",
    "/label-studio/..;a=b/other-app/x.png",
    "/label-studio//../../other-app/x.png",
    "/label-studio/a%2fb/../../other-app/x.png",
    "/label-studio/a%5Cb/../../other-app/x.png",
    "/label-studio/a\\b/../../other-app/x.png",
    "/label-studio/a%252fb/../../other-app/x.png",
    "/label-studio/a%2fb/..%20/..;/other-app/x.png",
    "/label-studio/data/../../other-app/x.png",
    "/label-studio%2f..%2fother-app/x.png",
    "/label-studio%2fx.png",
    "//label-studio/x.png",
    "/./label-studio/../x.png",
    "/label-studio-two/x.png",
    "/LABEL-STUDIO/x.png",
    "/label-studi%6f/x.png",
    "/label-studio/../label-studio-two/x.png",
)
"""Paths of Label Studio's host that are not below /label-studio, or not by every server's reading."""
NOT_HAD = frozenset({403, 502})


def outside() -> Iterator[Entry]:
    """Images of other applications on Label Studio's host; for a Label Studio at its root they are merely missing."""
    for path in OUTSIDE:
        make = coded(at(backend_body(), ("tasks", 0, "data", "image"), f"@HOME@{path}"))
        yield Entry(f"outside: {path}", BACKEND, NOT_HAD, make, address=f"@HOME@{path}")
    silent = coded(at(backend_body(), ("tasks", 0, "data", "image"), "/hostile/silent"))
    yield Entry("outside: a Label Studio that says nothing", BACKEND, frozenset({502}), silent)


def _save(regions: Any, action: Any = "ANNOTATION_CREATED", number: Any = 3) -> dict[str, Any]:
    return {"action": action, "annotation": {"id": number, "result": regions}}


def webhooks() -> Iterator[Entry]:
    """What claims to be a saved annotation."""
    ours = {"id": "0123456789abcdefn1", "origin": "prediction"}
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    cases: list[tuple[str, Any, frozenset[int]]] = [
        ("20,000 regions", _save([ours] * 20_000), FINE),
        ("20,001 regions", _save([ours] * 20_001), BAD),
        ("18,000 different regions", _save([{**ours, "id": f"{n:016x}n1"} for n in range(18_000)]), FINE),
        ("regions that are none", _save(["x", 7, None, [], {}]), FINE),
        ("regions by name", _save({"0": ours}), BAD),
        ("a region in a region", _save([deep]), FINE),
        ("an id of a megabyte", _save([{**ours, "id": "0" * 1_000_000}]), FINE),
        ("an id that is a list", _save([{**ours, "id": [[ours]] * 100}]), FINE),
        ("an id with a line of its own", _save([{**ours, "id": "0123456789abcdefn1\nERROR forged"}]), FINE),
        ("an origin that is an object", _save([{**ours, "origin": {"prediction": 1}}]), FINE),
        ("a number of clicks beyond all", _save([{**ours, "id": "0123456789abcdefn99999"}]), FINE),
        ("an annotation of 400 digits", _save([ours], number=10**399), FINE),
        ("an annotation below zero", _save([ours], number=-1), FINE),
        ("an annotation that is true", _save([ours], number=True), BAD),
        ("an action that is a list", _save([ours], action=["ANNOTATION_CREATED"]), FINE),
        ("an action of a megabyte", _save([ours], action="A" * 1_000_000), FINE),
        ("a save again and again", _save([ours], action="ANNOTATION_UPDATED"), FINE),
    ]
    headers = (("Content-Type", JSON_TYPE), ("Authorization", LOGIN))
    for name, body, right in cases:
        content = json.dumps(body).encode()
        yield Entry(
            f"webhook: {name}", BACKEND, right, lambda content=content: content, path="/webhook", headers=headers
        )
    too_much = frozenset({413})
    yield Entry(
        "webhook: over its limit", BACKEND, too_much, lambda: b'{"a": "' + b"x" * (9 << 20) + b'"}', path="/webhook"
    )
    stranger = (("Content-Type", JSON_TYPE),)
    forged = json.dumps(_save([ours])).encode()
    yield Entry("webhook: of a stranger", BACKEND, FINE, lambda: forged, path="/webhook", headers=stranger)
