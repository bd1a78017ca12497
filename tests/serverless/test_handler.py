"""The handler with Nuclio's own objects: masks are the engine's, nothing escapes, nothing is decoded twice."""

import base64
import json
import re

import cv2
import nuclio_sdk
import numpy as np
import pytest
from cvat_sdk.masks import decode_mask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage import data

from icmformer import Box, CleanUp, Click, LoadedImage
from icmformer.runs import MaskRuns
from icmformer.serving.client import decode_reply
from icmformer.serving.core import ServingCore
from icmformer.types import MaskResult
from serverless import main
from serverless.interactor import _name
from tests.serverless.conftest import Log, call, coded, payload, points_of

CAT = data.chelsea()
CLICKS = [(170.5, 120.5), (230.0, 180.0)]
OFF = [(20.5, 20.5)]
FORMS = {
    "jpeg": coded(CAT, "JPEG", quality=95),
    "jpeg gray": coded(Image.fromarray(CAT).convert("L"), "JPEG"),
    "jpeg cmyk": coded(Image.fromarray(CAT).convert("CMYK"), "JPEG"),
    "png": coded(CAT),
    "png palette": coded(Image.fromarray(CAT).convert("P")),
    "png alpha": coded(Image.fromarray(CAT).convert("RGBA")),
    "png 1 bit": coded(Image.fromarray(CAT).convert("1")),
    "png 16 bit": coded(Image.fromarray(CAT[..., 0].astype(np.uint16) * 40 + 300)),
    "tiff": coded(CAT, "TIFF"),
    "tiff 16 bit": coded(Image.fromarray(CAT[..., 0].astype(np.uint16) * 40 + 300), "TIFF"),
    "tiff cmyk": coded(Image.fromarray(CAT).convert("CMYK"), "TIFF"),
    "webp": coded(CAT, "WEBP", quality=90),
    "bmp": coded(CAT, "BMP"),
}


def mask_of(reply, shape=CAT.shape):
    return decode_mask(points_of(reply), image_width=shape[1], image_height=shape[0])


def result_of(mask):
    return MaskResult(MaskRuns.of(mask), 0.9, (0, 1, 0, 1), {}, lambda: mask.astype(np.float32))


def clicks_of(positive, negative):
    return [Click(x, y) for x, y in positive] + [Click(x, y, False) for x, y in negative]


@pytest.mark.parametrize("form", FORMS)
def test_the_mask_is_the_engines_for_every_form_of_image(context, fast, form):
    status, reply = call(context, payload(FORMS[form], CLICKS, OFF))
    image = LoadedImage.from_bytes(base64.b64decode(FORMS[form]), shown_by="cvat")
    expected = fast.segment(image, clicks_of(CLICKS, OFF), ordered=False).mask
    assert status == 200
    assert expected.any()
    np.testing.assert_array_equal(mask_of(reply), expected)


@pytest.mark.parametrize("form", ["png 16 bit", "tiff 16 bit"])
def test_deep_images_are_seen_as_cvats_page_shows_them(context, fast, form):
    """Scaled by their least and largest value, then equalised; saturated, they would be white all over."""
    red = CAT[..., 0].astype(float)
    scaled = Image.fromarray(((red - red.min()) * (255 / (red.max() - red.min()))).astype(np.uint8))
    seen = np.asarray(ImageOps.equalize(scaled).convert("RGB"))
    expected = fast.segment(seen, clicks_of(CLICKS, []), ordered=False).mask
    np.testing.assert_array_equal(mask_of(call(context, payload(FORMS[form], CLICKS))[1]), expected)


def test_files_from_elsewhere_are_taken(context, fast, shared):
    taken = 0
    for file in sorted((shared / "data" / "fixtures").glob("[ef]*s*/*.*")):
        if file.suffix not in (".jpg", ".png", ".tif", ".tiff", ".webp", ".jp2"):
            continue
        content = base64.b64encode(file.read_bytes()).decode()
        status, reply = call(context, payload(content, [(30, 30)]))
        if status == 422:
            assert file.stem in ("broken_data_stream", "truncated_jpeg"), reply
            continue
        image = LoadedImage.from_bytes(file.read_bytes(), shown_by="cvat")
        expected = fast.segment(image, [Click(30, 30)], ordered=False).mask
        assert status == 200
        if expected.any():
            np.testing.assert_array_equal(mask_of(reply, expected.shape), expected)
        taken += 1
    assert taken > 15


@pytest.mark.parametrize("as_body", [json.dumps, lambda b: json.dumps(b).encode(), lambda b: b])
def test_bodies_that_nuclio_did_not_parse_are_parsed_here(context, as_body):
    request = payload(FORMS["png"], CLICKS)
    assert call(context, as_body(request), "application/json; charset=utf-8") == call(context, request)


def test_boxes_alone_and_with_clicks(context, fast):
    box = [(110, 60), (340, 270)]
    image = LoadedImage.from_bytes(base64.b64decode(FORMS["png"]))
    for positive in ([], CLICKS[:1]):
        expected = fast.segment(image, clicks_of(positive, []), Box(110, 60, 340, 270), ordered=False).mask
        np.testing.assert_array_equal(mask_of(call(context, payload(FORMS["png"], positive, box=box))[1]), expected)
        turned = payload(FORMS["png"], positive, box=[(340, 60), (110, 270)])
        np.testing.assert_array_equal(mask_of(call(context, turned)[1]), expected)


def test_prompts_that_say_nothing_get_no_shape(context):
    for positive, negative in (([], []), ([], OFF)):
        assert call(context, payload(FORMS["png"], positive, negative)) == (200, {"shapes": []})


def test_the_order_of_the_kinds_and_what_was_asked_before_do_not_matter(make_context):
    request = payload(FORMS["png"], CLICKS, OFF)
    cold = call(make_context(cold=True), request)
    warm = make_context()
    for step in (payload(FORMS["png"], CLICKS[:1]), payload(FORMS["png"], CLICKS), request):
        last = call(warm, step)
    assert last == cold == call(warm, request)


def test_a_second_click_neither_decodes_nor_encodes_the_photo_again(make_context, monkeypatch):
    context, decoded = make_context(), []
    engine = context.user_data.interactor.engine
    real = LoadedImage.from_bytes
    monkeypatch.setattr(LoadedImage, "from_bytes", lambda *a, **k: decoded.append(1) or real(*a, **k))
    features = engine.caches.features.stats
    image = coded(np.ascontiguousarray(CAT[::-1]))
    call(context, payload(image, CLICKS[:1]))
    before = features()
    call(context, payload(image, [(60, 200)]))  # another object, on the whole photo as well
    assert len(decoded) == 1
    assert features().misses == before.misses
    assert [facts["image_kept"] for _, _, facts in context.logger.lines] == [False, True]


def test_a_reply_tells_its_stages(make_context):
    context = make_context(cold=True)
    reply = main.handler(context, nuclio_sdk.Event(body=payload(coded(CAT), [(170.5, 120.5)])))
    told = re.findall(r"([\w.]+);dur=([\d.]+)", reply.headers["Server-Timing"])
    stages = {name: float(spent) for name, spent in told}
    assert [name for name in stages if "." not in name] == ["parse", "decode", "segment", "encode"]
    parts = {name: spent for name, spent in stages.items() if "." in name}
    assert {"segment.encode", "segment.decode", "segment.crop", "segment.resize"} <= set(parts)
    assert 0 < sum(parts.values()) <= stages["segment"] + 1
    assert reply.headers["Server-Timing"].count(",") == len(stages) - 1


def test_a_click_on_a_photo_of_12_megapixels_is_answered_in_less_than_100_kb(context):
    large = coded(cv2.resize(CAT, (4000, 3000), interpolation=cv2.INTER_CUBIC), "JPEG", quality=90)
    reply = main.handler(context, nuclio_sdk.Event(body=payload(large, [(1500, 1200)])))
    assert json.loads(reply.body)["shapes"]
    assert len(reply.body) < 100_000


def test_a_logger_that_fails_costs_no_reply(context):
    context.logger = None
    assert main.handler(context, nuclio_sdk.Event(body=payload(FORMS["png"], CLICKS))).status_code == 200
    assert main.handler(context, nuclio_sdk.Event(body={})).status_code == 400


def test_old_cvat_gets_whole_masks(make_context, fast):
    context = make_context(reply="mask")
    status, reply = call(context, payload(FORMS["png"], CLICKS))
    expected = fast.segment(
        LoadedImage.from_bytes(base64.b64decode(FORMS["png"])), clicks_of(CLICKS, []), ordered=False
    ).mask
    assert status == 200
    np.testing.assert_array_equal(np.array(reply["mask"]), expected * 255)


@pytest.mark.parametrize(("clicks", "off"), [([], []), ([], OFF)])
def test_old_cvat_survives_the_deletion_of_the_last_point(make_context, clicks, off):
    """Its page takes `points`, where there are any, for the outline, and saves no object where that is empty."""
    status, reply = call(make_context(reply="mask"), payload("bm8gcGhvdG8=", clicks, off))
    assert (status, reply) == (200, {"mask": [[0]], "points": []})
    assert not decode_reply(reply, 30, 40).any()


def test_old_cvat_is_told_that_clicks_found_nothing(make_context, monkeypatch):
    """An empty mask breaks that page, and a reply that it takes would end an object in silence."""
    monkeypatch.setattr(
        ServingCore, "segment", lambda self, image, *_: result_of(np.zeros(image.pixels.shape[:2], bool))
    )
    status, reply = call(make_context(reply="mask"), payload(FORMS["png"], CLICKS))
    assert (status, reply["kind"]) == (422, "nothing found")


def test_a_click_on_a_second_part_is_a_shape_of_its_own(make_context, monkeypatch):
    two = np.zeros((300, 451), bool)
    two[10:60, 10:60] = two[100:120, 200:260] = True
    monkeypatch.setattr(ServingCore, "segment", lambda *_: result_of(two))
    reply = call(make_context(parts=True), payload(FORMS["png"], CLICKS))[1]
    assert len(reply["shapes"]) == 2
    assert {(shape["type"], len(shape["attributes"])) for shape in reply["shapes"]} == {("mask", 0)}
    np.testing.assert_array_equal(decode_reply(reply, 300, 451), two)
    assert len(call(make_context(), payload(FORMS["png"], CLICKS))[1]["shapes"]) == 1


def test_masks_are_tidied_on_request(make_context, fast):
    clean_up = CleanUp(keep_clicked=True, fill_holes=500)
    image = LoadedImage.from_bytes(base64.b64decode(FORMS["png"]))
    expected = fast.segment(image, clicks_of(CLICKS, OFF), ordered=False, clean_up=clean_up).mask
    reply = call(make_context(clean_up=clean_up), payload(FORMS["png"], CLICKS, OFF))[1]
    np.testing.assert_array_equal(mask_of(reply), expected)


@pytest.mark.parametrize(
    ("request_body", "status", "kind", "text"),
    [
        (b"{", 400, "bad request", "not JSON"),
        ({}, 400, "bad request", "image must be"),
        (payload("@@", CLICKS), 400, "bad request", "not base64"),
        (payload(base64.b64encode(b"no image").decode(), CLICKS), 422, "unusable image", "not an image"),
        (
            payload(base64.b64encode(base64.b64decode(FORMS["jpeg"])[:4000]).decode(), CLICKS),
            422,
            "unusable image",
            "ends early",
        ),
        (payload(FORMS["png"], [(999, 5)]), 400, "bad request", "outside the image of 451 x 300"),
        (payload(FORMS["png"], box=[(5, 5), (5, 90)]), 400, "bad prompt", "needs an area"),
        (payload(FORMS["png"], box=[(905, 5), (955, 90)]), 400, "bad prompt", "outside"),
    ],
)
def test_bad_requests_are_told_in_a_line_and_logged(context, request_body, status, kind, text):
    given_status, reply = call(context, request_body)
    assert (given_status, reply["kind"]) == (status, kind)
    assert text in reply["error"]
    level, message, facts = context.logger.lines[-1]
    assert level == "warn"
    assert text in message
    assert (facts["status"], facts["request"]) == (status, "7")
    assert status == 400 or facts["positive"] == len(CLICKS)


def test_an_image_over_the_limit_is_refused_by_its_header(make_context):
    status, reply = call(make_context(max_pixels=1000), payload(FORMS["png"], CLICKS))
    assert (status, reply["kind"]) == (413, "too large")


def test_a_fault_of_ours_is_a_500_whose_trace_is_in_the_log_alone(context, monkeypatch):
    monkeypatch.setattr(ServingCore, "segment", lambda *_: 1 / 0)
    status, reply = call(context, payload(FORMS["png"], CLICKS))
    assert (status, reply["kind"]) == (500, "internal error")
    assert "ZeroDivision" not in json.dumps(reply)
    assert "ZeroDivisionError" in context.logger.text()


def test_init_context_loads_warms_up_and_answers(monkeypatch):
    monkeypatch.setenv("ICMFORMER_DEVICE", "cpu")
    context = nuclio_sdk.Context(logger=Log())
    main.init_context(context)
    assert "ready: starter" in context.logger.text()
    assert call(context, payload(FORMS["png"], CLICKS))[0] == 200


@pytest.mark.parametrize(
    ("name", "value"), [("ICMFORMER_WEIGHTS", "none"), ("ICMFORMER_DEVICE", "cuda:99"), ("ICMFORMER_CVAT_REPLY", "png")]
)
def test_a_worker_that_cannot_start_says_why_and_answers_503(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    context = nuclio_sdk.Context(logger=Log())
    main.init_context(context)
    (line,) = context.logger.lines
    assert line[0] == "error"
    assert value in line[1]
    status, reply = call(context, payload(FORMS["png"], CLICKS))
    assert (status, reply["kind"]) == (503, "not ready")


def test_a_context_that_was_never_set_up_is_a_503_too():
    assert call(nuclio_sdk.Context(logger=Log()), {})[0] == 503


def damaged(seed):
    """A real file with some bytes changed or cut off."""
    rng = np.random.default_rng(seed)
    form = list(FORMS)[seed % len(FORMS)]
    content = bytearray(base64.b64decode(FORMS[form]))
    for place in rng.integers(0, len(content), rng.integers(1, 30)):
        content[place] = rng.integers(256)
    return base64.b64encode(bytes(content[: rng.integers(1, len(content) + 1)])).decode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
POINTS = st.lists(st.lists(st.floats(-10, 500) | st.integers(-10, 500), min_size=2, max_size=2), max_size=4)
SMALL = [coded(CAT[100:160, 150:220], "JPEG"), coded(CAT[:1, :1]), coded(CAT[:3, :90])]


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "image": st.sampled_from(SMALL) | st.integers(0, 10_000).map(damaged) | st.text(max_size=9) | JSON,
            "pos_points": POINTS | JSON,
            "neg_points": POINTS | JSON,
            "obj_bbox": POINTS | JSON,
            "threshold": JSON,
            "text_prompts": JSON,
        },
    )
    | JSON
    | st.binary(max_size=30)
)
def test_nothing_that_is_sent_escapes_or_is_a_fault_of_ours(context, request_body):
    status, reply = call(context, request_body)
    assert status in (200, 400, 413, 422), reply
    assert set(reply) == ({"shapes"} if status == 200 else {"error", "kind"})


def test_the_buffer_of_a_picture_is_no_secret_channel(context):
    """Two photos that differ in one pixel are two photos, whose base64 is alike where it is looked at first."""
    other = CAT.copy()
    other[150, 200] ^= 255
    images = [coded(CAT, "BMP"), coded(other, "BMP")]
    assert _name(images[0]) == _name(images[1])
    for image in (*images, images[1]):
        call(context, payload(image, CLICKS))
    assert [facts["image_kept"] for _, _, facts in context.logger.lines] == [False, False, True]


def test_metrics_that_cannot_be_had_cost_no_mask(monkeypatch):
    """The function answers without them, and says why there are none."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/proc/nothing/there")
    context = nuclio_sdk.Context(logger=Log(), worker_id=0)
    main.init_context(context)
    assert "no metrics" in context.logger.text()
    assert call(context, payload(FORMS["png"], [(170.5, 120.5)]))[0] == 200
    reply = main.handler(context, nuclio_sdk.Event(method="GET", path="/metrics", body=b""))
    assert reply.status_code == 400  # as any other request that is none of CVAT's


def test_metrics_are_told_on_request(monkeypatch):
    context = nuclio_sdk.Context(logger=Log(), worker_id=0)
    main.init_context(context)
    assert call(context, payload(FORMS["png"], [(170.5, 120.5)]))[0] == 200
    assert call(context, payload("@@", [(1, 1)]))[0] == 400
    reply = main.handler(context, nuclio_sdk.Event(method="GET", path="/metrics?x=1", body=b""))
    assert reply.status_code == 200
    assert 'icmformer_predictions_total{kind="mask"} 1.0' in reply.body
    assert 'icmformer_errors_total{kind="bad request"} 1.0' in reply.body
    assert 'icmformer_errors_total{kind="internal error"} 0.0' in reply.body
