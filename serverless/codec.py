"""Between CVAT's JSON and the package's vocabulary. No image is opened here; no torch.

CVAT counts as the package does: x right, y down, in pixels, the middle of the top left pixel at (0.5, 0.5).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmformer.runs import MaskRuns
from icmformer.serving.errors import RequestError
from icmformer.serving.requests import Summary
from icmformer.types import BoolMask, Box, Click

from .rle import encode_mask

_MOST_POINTS = 100  # of a kind: each is a pass of the network, and Nuclio ends a worker that takes too long
_SLACK = 1.0  # pixels beyond the image that rounding in the page may leave


@dataclass(frozen=True)
class CVATRequest:
    """One object that an annotator is clicking on.

    Attributes:
        image: The image file, base64, as it came.
        pos_points: Clicks on the object (x, y), in click order.
        neg_points: Clicks off the object, in click order; the order between the two kinds is not known.
        corners: (x1, y1, x2, y2) of the box around all corner points; None without a box.
    """

    image: str | bytes
    pos_points: tuple[tuple[float, float], ...]
    neg_points: tuple[tuple[float, float], ...]
    corners: tuple[float, float, float, float] | None

    @property
    def empty(self) -> bool:
        """Whether nothing says where the object is: no box and no positive click."""
        return self.corners is None and not self.pos_points

    def summary(self) -> Summary:
        """See `ClickRequest`. CVAT does not tell which object a request is about."""
        boxes, facts = int(self.corners is not None), {"image_bytes": len(self.image) * 3 // 4}
        return Summary(len(self.pos_points), len(self.neg_points), boxes, facts=facts)

    def prompt(self, height: int, width: int) -> tuple[tuple[Click, ...], Box | None]:
        """Clicks, positive ones first, and box in an image of `height` x `width` pixels.

        Raises:
            RequestError: A click outside the image.
            PromptError: A box without area.
        """
        return to_prompt(self.pos_points, self.neg_points, self.corners, height, width)


def to_prompt(
    positive: tuple[tuple[float, float], ...],
    negative: tuple[tuple[float, float], ...],
    corners: tuple[float, float, float, float] | None,
    height: int,
    width: int,
) -> tuple[tuple[Click, ...], Box | None]:
    """CVAT's prompts as clicks and box; see `CVATRequest.prompt`."""
    clicks = [_click(x, y, True, height, width) for x, y in positive]
    clicks += [_click(x, y, False, height, width) for x, y in negative]
    return tuple(clicks), None if corners is None else Box(*corners)


def _click(x: float, y: float, positive: bool, height: int, width: int) -> Click:
    if not (-_SLACK <= x <= width + _SLACK and -_SLACK <= y <= height + _SLACK):
        raise RequestError(f"the click ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels")
    return Click(min(max(x, 0.0), width), min(max(y, 0.0), height), positive)


def parse(body: Any) -> CVATRequest:
    """Reads the body of a request: a mapping, or JSON as bytes or str.

    `threshold` and other keys that this function has no use for are passed over.

    Raises:
        RequestError: Anything that does not fit; the text says what.
    """
    if isinstance(body, (bytes, bytearray, memoryview, str)):
        try:
            body = json.loads(bytes(body) if isinstance(body, memoryview) else body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, Mapping):
        raise RequestError(f"the body must be a JSON object with image and points, got {_kind(body)}")
    image = body.get("image")
    if not isinstance(image, (str, bytes)) or not image:
        raise RequestError(f"image must be the image file in base64, got {_kind(image)}")
    corners = _points(body, "obj_bbox")
    if len(corners) % 2:
        raise RequestError(f"obj_bbox must be corner points in pairs, got {len(corners)} points")
    request = CVATRequest(
        image=image,
        pos_points=_points(body, "pos_points"),
        neg_points=_points(body, "neg_points"),
        corners=_around(corners) if corners else None,
    )
    if body.get("text_prompts") and request.empty:
        raise RequestError("this function takes clicks and boxes; it does not understand text_prompts")
    return request


def decode_base64(image: str | bytes) -> bytes:
    """The bytes of an image file; line breaks are passed over.

    Raises:
        RequestError: Not base64.
    """
    try:
        coded = image.encode("ascii") if isinstance(image, str) else image
    except UnicodeEncodeError as error:
        raise RequestError("image is not base64: it has characters that base64 does not") from error
    try:
        return base64.b64decode(coded.translate(None, b"\r\n") if b"\n" in coded else coded, validate=True)
    except binascii.Error as error:
        raise RequestError(f"image is not base64: {error}") from error


def _points(body: Mapping[str, Any], key: str) -> tuple[tuple[float, float], ...]:
    value = body.get(key)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) > _MOST_POINTS:
        raise RequestError(f"{key} must be a list of at most {_MOST_POINTS} points [x, y], got {_kind(value)}")
    return tuple(_point(key, n, point) for n, point in enumerate(value))


def _point(key: str, place: int, value: Any) -> tuple[float, float]:
    if (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
        and all(abs(v) < 1e9 for v in value)  # no NaN, and no whole number too large for a float
    ):
        return float(value[0]), float(value[1])
    if isinstance(value, (list, tuple)) and len(value) == 2:
        raise RequestError(f"{key}[{place}] must be a point [x, y] of two numbers, got {', '.join(map(_kind, value))}")
    raise RequestError(f"{key}[{place}] must be a point [x, y] of two numbers, got {_kind(value)}")


def _around(points: tuple[tuple[float, float], ...]) -> tuple[float, float, float, float]:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "a number" if abs(value) < 1e9 else "a number that is too large or not finite"
    return "nothing" if value is None else type(value).__name__


def shapes_reply(mask: MaskRuns, parts: bool = False) -> bytes:
    """The JSON of a reply to CVAT 2.60 and later: see `serverless.rle.encode_mask`."""
    shapes = [{"type": "mask", "points": points, "attributes": []} for points in encode_mask(mask, parts)]
    return json.dumps({"shapes": shapes}, separators=(",", ":")).encode()


NOTHING: Mapping[str, bytes] = {"shapes": b'{"shapes":[]}', "mask": b'{"mask":[[0]],"points":[]}'}
"""Reply form -> the JSON for a request that says nothing of where the object is: all points were deleted, say.

CVAT's page before 2.60 traces the outline of a `mask` that comes without `points`, and fails where there is none. Given
`points` it takes them for the outline: an empty one leaves no object to save and no error. It does read `mask`, one row
and one column of it at least, and shows nothing of it without an outline.
"""


def mask_reply(mask: BoolMask) -> bytes:
    """The JSON of a reply to CVAT before 2.60: every row a list of 0 and 255."""
    height, width = mask.shape
    cells: NDArray[np.uint8] = np.array([list(b"  0,"), list(b"255,")], np.uint8)[mask.astype(np.uint8)]
    cells[:, -1, -1] = ord("]")  # (H, W, 4): the comma after a row's last number
    lines = np.empty((height, 4 * width + 2), np.uint8)
    lines[:, 0], lines[:, -1] = ord("["), ord(",")
    lines[:, 1:-1] = cells.reshape(height, 4 * width)
    return b'{"mask":[' + lines.tobytes()[:-1].replace(b" ", b"") + b"]}"
