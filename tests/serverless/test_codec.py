"""Requests in, masks out; the truth about masks is CVAT's own SDK."""

import contextlib
import json

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask, encode_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from icmformer.errors import ConfigError
from icmformer.runs import MaskRuns
from icmformer.serving.errors import RequestError
from icmformer.types import Box
from serverless import codec, rle
from serverless.settings import FunctionSettings


def masks():
    rng = np.random.default_rng(0)
    for n in range(340):
        height, width = rng.integers(1, 60, 2)
        mask = rng.random((height, width)) < rng.choice([0.02, 0.3, 0.5, 0.9])
        if n % 7 == 0:  # one pixel wide
            mask[:] = False
            mask[:, rng.integers(width)] = True
        if n % 11 == 0:
            mask[:] = True
        if n % 13 == 0:
            mask[:] = False
            mask[rng.integers(height), rng.integers(width)] = True
        yield mask
    rows, columns = np.mgrid[:1080, :1920]
    yield (rows - 540) ** 2 + (columns - 960) ** 2 < 400**2


def test_shapes_are_those_of_cvats_own_encoder():
    count = 0
    for mask in masks():
        if mask.any():
            points = rle.encode_shape(MaskRuns.of(mask))
            assert points == encode_mask(mask)
            assert all(type(p) is int for p in points)
            count += 1
            np.testing.assert_array_equal(
                decode_mask(points, image_width=mask.shape[1], image_height=mask.shape[0]), mask
            )
    assert count >= 300
    assert rle.encode_shape(MaskRuns.none((5, 7))) == []


def test_one_shape_for_each_part_holds_the_mask_and_each_pixel_once():
    """Decoded by CVAT's SDK; which pixels are connected is scipy's word."""
    touching, seen = np.ones((3, 3)), 0
    for mask in masks():
        height, width = mask.shape
        shapes = json.loads(codec.shapes_reply(MaskRuns.of(mask), parts=True))["shapes"]
        parts = [decode_mask(shape["points"], image_width=width, image_height=height) for shape in shapes]
        _, count = ndimage.label(mask, touching)
        assert len(parts) == min(count, 20)
        np.testing.assert_array_equal(np.sum(parts, axis=0) if parts else np.zeros_like(mask), mask)
        sizes = [part.sum() for part in parts[:19]]
        assert sizes == sorted(sizes, reverse=True)
        for part, shape in zip(parts, shapes, strict=True):
            assert part.any()
            assert shape["points"] == encode_mask(part)
            if part is not parts[-1] or count <= 20:
                assert ndimage.label(part, touching)[1] == 1
        seen += count > 20
    assert seen > 20


def test_the_old_reply_is_what_json_says_of_nested_lists():
    for mask in list(masks())[:60]:
        reply = codec.mask_reply(mask)
        assert json.loads(reply) == {"mask": (mask.astype(int) * 255).tolist()}
        assert b" " not in reply


def body(**changes):
    return {"image": "aGVsbG8=", "pos_points": [[3, 4.5]], "neg_points": [], "obj_bbox": [], **changes}


@pytest.mark.parametrize(
    "form",
    [lambda b: b, json.dumps, lambda b: json.dumps(b).encode(), lambda b: bytearray(json.dumps(b), "ascii")],
)
def test_mappings_and_json_in_any_form_are_taken(form):
    request = codec.parse(form(body()))
    assert request.pos_points == ((3.0, 4.5),)
    assert codec.decode_base64(request.image) == b"hello"


def test_what_cvat_leaves_out_is_none():
    request = codec.parse({"image": "aGVsbG8="})
    assert (request.pos_points, request.neg_points, request.corners, request.empty) == ((), (), None, True)
    request = codec.parse(body(pos_points=None, neg_points=None, obj_bbox=None, threshold=0.4, text_prompts=[]))
    assert request.empty


def test_boxes_are_around_all_their_points_whatever_their_order():
    assert codec.parse(body(obj_bbox=[[9, 2], [1, 8]])).corners == (1, 2, 9, 8)
    assert codec.parse(body(obj_bbox=[[1, 2], [3, 4], [0, 9], [2, 2]])).corners == (0, 2, 3, 9)
    clicks, box = codec.parse(body(obj_bbox=[[9, 2], [1, 8]])).prompt(20, 30)
    assert box == Box(1, 2, 9, 8)
    assert [c.positive for c in clicks] == [True]


def test_clicks_at_the_very_edge_are_inside_and_those_beyond_are_not():
    request = codec.parse(body(pos_points=[[0, 0], [30, 20], [-0.4, 20.6]], neg_points=[[30, 0]]))
    clicks, _ = request.prompt(20, 30)
    assert [(c.x, c.y, c.positive) for c in clicks] == [(0, 0, True), (30, 20, True), (0, 20, True), (30, 0, False)]
    with pytest.raises(RequestError, match=r"\(33, 4\) lies outside the image of 30 x 20"):
        codec.parse(body(pos_points=[[33, 4]])).prompt(20, 30)


def test_line_breaks_in_base64_are_passed_over():
    assert codec.decode_base64(b"aGVs\r\nbG8=\n") == b"hello"


@pytest.mark.parametrize(
    ("given_body", "text"),
    [
        (b"\xff{", "the body is not JSON"),
        ("[" * 100_000, "the body is not JSON"),
        ("", "the body is not JSON"),
        (None, "must be a JSON object"),
        ([], "must be a JSON object"),
        (5, "must be a JSON object"),
        ({}, "image must be the image file in base64, got nothing"),
        (body(image=""), "image must be"),
        (body(image=[1]), "image must be"),
        (body(pos_points="here"), "pos_points must be a list"),
        (body(pos_points=[[1, 2]] * 101), "at most 100 points"),
        (body(pos_points=[[1, 2], [3]]), r"pos_points\[1\] must be a point"),
        (body(neg_points=[[1, "2"]]), r"neg_points\[0\] must be a point .* got a number, a text of 1 characters"),
        (body(neg_points=[[1, True]]), r"neg_points\[0\] must be a point"),
        (body(neg_points=[[1, float("nan")]]), r"neg_points\[0\] must be a point"),
        (body(neg_points=[[1, 10**400]]), r"neg_points\[0\] must be a point"),
        (body(obj_bbox=[[1, 2]]), "corner points in pairs"),
        (body(obj_bbox={"x": 1}), "obj_bbox must be a list"),
        (body(pos_points=[], text_prompts=["a cat"]), "does not understand text_prompts"),
    ],
)
def test_what_is_wrong_is_said(given_body, text):
    with pytest.raises(RequestError, match=text):
        codec.parse(given_body)


@pytest.mark.parametrize("image", ["ä", "@@@", b"@@@", b"aGVsbG8", "aGVs bG8="])
def test_what_is_no_base64_is_refused(image):
    with pytest.raises(RequestError, match="not base64"):
        codec.decode_base64(image)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40))
def test_any_text_is_parsed_or_refused(data):
    with contextlib.suppress(RequestError):
        codec.parse(data)


def test_parts_are_off_and_do_not_go_with_the_form_that_holds_one_mask():
    assert not FunctionSettings.from_environment({}).parts
    assert FunctionSettings.from_environment({"ICMFORMER_CVAT_PARTS": "1"}).parts
    with pytest.raises(ConfigError, match="ICMFORMER_CVAT_PARTS=1 cannot be combined with ICMFORMER_CVAT_REPLY=mask"):
        FunctionSettings.from_environment({"ICMFORMER_CVAT_PARTS": "1", "ICMFORMER_CVAT_REPLY": "mask"})
    with pytest.raises(ConfigError, match="ICMFORMER_CVAT_PARTS must be 0 or 1"):
        FunctionSettings.from_environment({"ICMFORMER_CVAT_PARTS": "all"})
