"""The function as Nuclio runs it, with the SDK's own objects, in this process."""

import base64
import io
import json

import nuclio_sdk
import pytest
from PIL import Image

from icmformer import Caches
from icmformer.inference.cache import ByteLRU
from serverless import main
from serverless.interactor import CVATCodec, Interactor
from serverless.settings import FunctionSettings


class Log:
    """Nuclio's logger, remembered."""

    def __init__(self):
        self.lines = []

    def _add(self, level):
        return lambda message, *args, **facts: self.lines.append((level, message, facts))

    def __getattr__(self, name):
        return self._add(name.removesuffix("_with"))

    def text(self):
        return "\n".join(f"{level} {message} {facts}" for level, message, facts in self.lines)


def coded(pixels, form="PNG", **options):
    """A picture as CVAT sends it: the file in base64."""
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, form, **options)
    return base64.b64encode(out.getvalue()).decode()


def payload(image, positive=(), negative=(), box=(), **other):
    """A request's body as CVAT makes it."""
    return {
        "image": image,
        "pos_points": [list(p) for p in positive],
        "neg_points": [list(p) for p in negative],
        "obj_bbox": [list(p) for p in box],
        **other,
    }


@pytest.fixture
def make_context(fast):
    """Makes a worker's context around an engine; `cold` keeps nothing between requests."""

    def make(engine=fast, cold=False, max_pixels=10**8, **settings):
        context = nuclio_sdk.Context(logger=Log(), worker_id=0)
        if cold:
            engine = engine.beside(Caches())
        images = ByteLRU(0 if cold else 1 << 28)
        cvat = CVATCodec(FunctionSettings(max_pixels=max_pixels, **settings), images)
        context.user_data.interactor = Interactor(engine, cvat)
        return context

    return make


@pytest.fixture
def context(make_context):
    return make_context()


def call(context, body, content_type="application/json"):
    """Status and body of a reply; whatever body is given reaches the handler as it is."""
    reply = main.handler(context, nuclio_sdk.Event(body=body, content_type=content_type, _id="7"))
    assert isinstance(reply, nuclio_sdk.Response)
    assert reply.content_type == "application/json"
    assert "Traceback" not in reply.body
    assert "\n" not in reply.body
    return reply.status_code, json.loads(reply.body)


def points_of(reply):
    (shape,) = reply["shapes"]
    assert shape["type"] == "mask"
    assert shape["attributes"] == []
    return shape["points"]
