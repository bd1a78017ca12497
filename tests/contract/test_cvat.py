"""What each version of CVAT sends and takes back; the payloads are files of their own."""

import base64
import io
import json

import cv2
import numpy as np
import pytest
from cvat_sdk.masks import decode_mask
from PIL import Image

from tests.conftest import ROOT
from tests.serverless import conftest
from tests.serverless.conftest import call, points_of

make_context = conftest.make_context  # the fixture, here too
PAYLOADS = sorted((ROOT / "tests" / "contract" / "cvat").glob("*.json"))


def page_before_2_60(reply):
    """The outline that the page of CVAT 2.3 to 2.59 makes an object of, by its steps; what fails here fails there."""
    points = reply.get("points")
    if reply.get("mask") and points is None:
        contours, _ = cv2.findContours(np.array(reply["mask"], np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        points = max(contours, key=len).reshape(-1, 2).tolist()
    assert [value for row in reply["mask"] for value in row]  # it makes run lengths of it
    assert reply["mask"][0]
    return points


def test_every_version_is_there():
    assert {p.name.split("_")[0] for p in PAYLOADS} == {"2.3", "2.60", "2.70", "2.73"}


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda p: p.stem)
@pytest.mark.parametrize("parsed", [True, False])
def test_a_payload_gets_a_reply_that_its_version_takes(make_context, path, parsed):
    case = json.loads(path.read_text())
    context = make_context(**case["settings"])
    body = case["request"] if parsed else json.dumps(case["request"]).encode()
    status, reply = call(context, body)
    assert status == case["status"], reply
    width, height = Image.open(io.BytesIO(base64.b64decode(case["request"]["image"]))).size
    if case["reply"] == "error":
        assert set(reply) == {"error", "kind"}
        return
    if case["reply"] == "none":
        assert reply == {"shapes": []}
        return
    if case["reply"] == "none of the old form":
        assert page_before_2_60(reply) == []
        return
    assert set(reply) == ({"mask"} if case["reply"] == "mask" else {"shapes"})
    if case["reply"] == "mask":
        assert page_before_2_60(reply)
        mask = np.array(reply["mask"])
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) == {0, 255}
        mask = mask > 0
    else:
        points = points_of(reply)
        left, top, right, bottom = points[-4:]
        assert 0 <= left <= right < width
        assert 0 <= top <= bottom < height
        assert sum(points[:-4]) == (right - left + 1) * (bottom - top + 1)
        mask = decode_mask(points, image_width=width, image_height=height)
    assert mask.any()
    for x, y in case["request"]["pos_points"][:1]:
        assert mask[int(y), int(x)]
