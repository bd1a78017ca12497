"""A CVAT function over HTTP, asked as CVAT asks it."""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from icmformer.errors import IcmformerError
from icmformer.images.reading import LoadedImage
from icmformer.types import BoolMask, Box, Click

_PIXEL = base64.b64encode(b"P5 1 1 255 \0").decode()
Ask = Callable[[Mapping[str, Any]], Any]
"""Takes the body of a request to a function and gives its reply, both as JSON's objects."""


class ServerError(IcmformerError, RuntimeError):
    """A function that does not answer, or not with a mask."""


class ServedImage:
    """An image that a function segments; every request carries it and all clicks, as CVAT's do.

    Args:
        image: Sent as PNG.
        ask: See `Ask`; `asker` makes one for an address.
    """

    def __init__(self, image: LoadedImage, ask: Ask) -> None:
        out = io.BytesIO()
        Image.fromarray(image.pixels).save(out, "PNG", compress_level=1)
        self._coded = base64.b64encode(out.getvalue()).decode()
        self._size, self._ask = image.pixels.shape[:2], ask

    def segment(self, clicks: Iterable[Click], box: Box | None = None) -> BoolMask:
        """The (H, W) bool mask for clicks, whose order CVAT does not tell beyond that within each kind, and a box.

        Raises:
            ServerError: No answer, or no mask.
        """
        points: dict[bool, list[list[float]]] = {True: [], False: []}
        for click in clicks:
            points[click.positive].append([click.x, click.y])
        corners = [] if box is None else [[box.x1, box.y1], [box.x2, box.y2]]
        body = {"image": self._coded, "pos_points": points[True], "neg_points": points[False], "obj_bbox": corners}
        return decode_reply(self._ask(body), *self._size)


def asker(url: str, seconds: float = 120.0) -> Ask:
    """Asks the function at an address, and waits so long for each answer."""
    return lambda body: _post(url, body, seconds)[0]


def model_of(url: str) -> str:
    """What a function says of its model; empty where it does not say.

    Raises:
        ServerError: It does not answer.
    """
    return _post(url, {"image": _PIXEL, "pos_points": [], "neg_points": [], "obj_bbox": []}, 30)[1]


def _post(url: str, body: Mapping[str, Any], seconds: float) -> tuple[Any, str]:
    try:
        call = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with _opener(url).open(call, timeout=seconds) as reply:
            return json.loads(reply.read()), reply.headers.get("X-Icmformer-Model", "")
    except urllib.error.HTTPError as error:
        raise ServerError(f"{url} answered {error.code}: {error.read()[:300].decode(errors='replace')}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServerError(
            f"{url} did not answer as a CVAT function does ({error}); is it running, and is this its http:// address?"
        ) from error


def _opener(url: str) -> urllib.request.OpenerDirector:
    """The environment's proxies, but for a function on this machine or in its network: they would not find it."""
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None)
        private = any(not ipaddress.ip_address(str(info[4][0]).partition("%")[0]).is_global for info in found)
    except (OSError, UnicodeError):  # a name that only the proxy knows, or nobody
        private = False
    return urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if private else [])


def decode_reply(reply: Any, height: int, width: int) -> BoolMask:
    """The (H, W) bool mask of a reply in either of CVAT's forms.

    Raises:
        ServerError: Neither of them.
    """
    try:
        if "mask" in reply and "points" in reply and reply["points"] == []:  # nothing clicked, in the form of old CVAT
            return np.zeros((height, width), bool)
        if "mask" in reply:
            mask: BoolMask = np.asarray(reply["mask"]) > 0
        else:
            mask = np.zeros((height, width), bool)
            for shape in reply["shapes"]:
                *runs, left, top, right, bottom = map(int, shape["points"])
                if sum(runs) != (bottom - top + 1) * (right - left + 1) or min(runs) < 0:
                    raise ValueError("its run lengths do not fill its box")
                inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
                mask[top : bottom + 1, left : right + 1] |= inside.reshape(bottom - top + 1, right - left + 1)
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        raise ServerError(f"the reply is not a mask: {error}") from error
    if mask.shape != (height, width):
        raise ServerError(f"the mask has {mask.shape[:2]} rows and columns, the image ({height}, {width})")
    return mask
