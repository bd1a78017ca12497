"""A CVAT function over HTTP as something to evaluate: it gets what CVAT sends and nothing else."""

from __future__ import annotations

import base64
import http.client
import io
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from icmformer.errors import IcmformerError
from icmformer.imageio import LoadedImage
from icmformer.inference.zoom import ROI, PixelClick, whole
from icmformer.types import BoolMask, FloatMap
from training.play import Answerer


class ServerError(IcmformerError, RuntimeError):
    """A function that does not answer, or not with a mask."""


def served_over_http(url: str, image: LoadedImage, seconds: float = 120.0) -> Answerer:
    """Clicks answered by a deployed function; every request carries the photo and all clicks, as CVAT's do.

    Args:
        url: Of the function.
        image: Sent as PNG.
        seconds: For an answer.

    Returns:
        See `Answerer`; masks come as probabilities of 0 and 1.
    """
    return answered_by(lambda body: _post(url, body, seconds), image)


def answered_by(ask: Any, image: LoadedImage) -> Answerer:
    """As `served_over_http`, whatever takes the body to the function: `ask(body) -> reply`, both of them mappings."""
    out = io.BytesIO()
    Image.fromarray(image.pixels).save(out, "PNG", compress_level=1)
    coded = base64.b64encode(out.getvalue()).decode()
    height, width = image.pixels.shape[:2]

    def answer(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        points = {kind: [[c.column + 0.5, c.row + 0.5] for c in clicks if c.positive == kind] for kind in (True, False)}
        reply = ask({"image": coded, "pos_points": points[True], "neg_points": points[False], "obj_bbox": []})
        return decode_reply(reply, height, width).astype(np.float32), whole(height, width)

    return answer


def model_of(url: str) -> str:
    """What a function says of its model; empty where it does not say.

    Raises:
        ServerError: It does not answer.
    """
    _, model = _ask(url, {"image": _PIXEL, "pos_points": [], "neg_points": [], "obj_bbox": []}, 30)
    return model


_PIXEL = base64.b64encode(b"P5 1 1 255 \0").decode()


def _post(url: str, body: Mapping[str, Any], seconds: float) -> Any:
    return _ask(url, body, seconds)[0]


def _ask(url: str, body: Mapping[str, Any], seconds: float) -> tuple[Any, str]:
    try:
        call = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(call, timeout=seconds) as reply:
            return json.loads(reply.read()), reply.headers.get("X-Icmformer-Model", "")
    except urllib.error.HTTPError as error:
        raise ServerError(f"{url} answered {error.code}: {error.read()[:300].decode(errors='replace')}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServerError(f"{url} did not answer as a function does ({error}); is it an http:// address?") from error


def decode_reply(reply: Any, height: int, width: int) -> BoolMask:
    """The (H, W) bool mask of a reply in either of CVAT's forms.

    Raises:
        ServerError: Neither of them.
    """
    try:
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
        raise ServerError(f"the reply is no mask: {error}") from error
    if mask.shape != (height, width):
        raise ServerError(f"the mask has {mask.shape[:2]} rows and columns, the image ({height}, {width})")
    return mask
