"""What comes back for what Label Studio sends; the truth is the engine's own mask for the same clicks."""

import base64
import time

import numpy as np
import pytest
from skimage import data, draw

from icmformer import Box, CleanUp, Click, LoadedImage
from icmformer.runs import MaskRuns
from icmformer.types import MaskResult
from ls_backend.backend import Backend
from tests.ls_backend.conftest import BRUSH, POLYGON, SEVERAL, UNIFIED, body, click, png
from tests.ls_backend.test_rle import decode


def predict(client, request):
    reply = client.post("/predict", json=request)
    assert reply.status_code == 200, reply.text
    return reply.json["results"]


def mask_of(region):
    assert region["value"]["format"] == "rle"
    pixels = decode(region["value"]["rle"]).reshape(region["original_height"], region["original_width"], 4)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0] > 0


def test_a_click_gets_the_engines_mask_as_brush_labels(client, fast, cat):
    (result,) = predict(client, body(click(40, 40)))
    (region,) = result["result"]
    assert region["type"] == "brushlabels"
    assert (region["from_name"], region["to_name"]) == ("brush", "image")
    assert region["value"]["brushlabels"] == ["Cat"]
    assert len(region["id"]) >= 10
    expected = fast.segment(cat, [Click(0.4 * 451, 0.4 * 300)])
    np.testing.assert_array_equal(mask_of(region), expected.mask)
    assert result["score"] == pytest.approx(expected.score)
    assert "starter" in result["model_version"]


def test_further_clicks_correct_in_their_order(client, fast, cat):
    items = [click(40, 40), click(80, 80, positive=False), click(60, 20)]
    (result,) = predict(client, body(*items))
    expected = fast.segment(
        cat, [Click(0.4 * 451, 0.4 * 300), Click(0.8 * 451, 0.8 * 300, False), Click(0.6 * 451, 0.2 * 300)]
    )
    np.testing.assert_array_equal(mask_of(result["result"][0]), expected.mask)


def test_a_point_restored_from_a_draft_is_positive(client):
    said, unsaid = (predict(client, body(click(40, 40, positive=p, identity="same")))[0] for p in (True, None))
    assert said == unsaid


def test_unified_labels_come_twice_and_go_back_twice(client, fast, cat):
    point = click(40, 40, identity="twin", type="keypoint")
    point["value"] = {"x": 40, "y": 40, "width": 0.2}
    label = click(40, 40, identity="twin", type="labels", from_name="labels")
    label["value"] = {"x": 40, "y": 40, "width": 0.2, "labels": ["Cat"]}
    (result,) = predict(client, body(point, label, config=UNIFIED))
    brush, labels = result["result"]
    assert (brush["type"], brush["from_name"]) == ("brush", "brush")
    assert (labels["type"], labels["from_name"]) == ("labels", "labels")
    assert labels["value"]["labels"] == ["Cat"]
    assert "labels" not in brush["value"]
    assert brush["id"] == labels["id"]
    expected = fast.segment(cat, [Click(0.4 * 451, 0.4 * 300)]).mask
    for region in (brush, labels):
        np.testing.assert_array_equal(mask_of(region), expected)
    label["value"]["labels"] = []
    two = UNIFIED.replace('<Label value="Cat"/>', '<Label value="Cat"/><Label value="Cup"/>')
    (result,) = predict(client, body(point, label, config=two))
    assert [r["type"] for r in result["result"]] == ["brush"]


def test_polygons_outline_the_mask(client, fast, cat):
    (result,) = predict(client, body(click(40, 40), config=POLYGON))
    drawn = np.zeros((300, 451), np.uint8)
    for region in result["result"]:
        assert region["type"] == "polygonlabels"
        assert region["value"]["closed"] is True
        assert region["value"]["polygonlabels"] == ["Cat"]
        points = (
            np.array(region["value"]["points"]) * [4.51, 3.0] - 0.5
        )  # skimage puts a pixel's middle at whole numbers
        drawn[draw.polygon(points[:, 1], points[:, 0], drawn.shape)] = 1
    ids = [r["id"] for r in result["result"]]
    assert len(set(ids)) == len(ids)
    mask = fast.segment(cat, [Click(0.4 * 451, 0.4 * 300)]).mask
    filled = CleanUp(fill_holes=10**9)(mask)
    assert (drawn.astype(bool) & filled).sum() / (drawn.astype(bool) | filled).sum() >= 0.98


def test_a_smart_rectangle_is_a_box(client, fast, cat):
    item = click(20, 10, identity="rect", type="rectanglelabels", from_name="box")
    item["value"] = {"x": 20, "y": 10, "width": 50, "height": 60, "rotation": 0, "rectanglelabels": ["Cat"]}
    (result,) = predict(client, body(item))
    expected = fast.segment(cat, box=Box(0.2 * 451, 30, 0.7 * 451, 210)).mask
    np.testing.assert_array_equal(mask_of(result["result"][0]), expected)
    item["value"] |= {"x": 70, "y": 10, "width": 100 * 180 / 451, "height": 100 * 0.5 * 451 / 300, "rotation": 90}
    (result,) = predict(client, body(item))  # turned by a right angle, it covers the same pixels
    turned = fast.segment(cat, box=Box(0.2 * 451, 30, 0.7 * 451, 210)).mask
    assert (mask_of(result["result"][0]) == turned).mean() > 0.999


def test_a_photo_is_seen_as_its_orientation_tag_says(client, fast, cat):
    (result,) = predict(client, body(click(40, 40), image="/data/upload/1/turned.png"))
    np.testing.assert_array_equal(mask_of(result["result"][0]), fast.segment(cat, [Click(0.4 * 451, 0.4 * 300)]).mask)
    reply = client.post("/predict", json=body(click(40, 40, size=(300, 451)), image="/data/upload/1/turned.png"))
    assert reply.status_code == 422
    assert "451 x 300" in reply.json["error"]


def test_clicks_find_their_image_among_several(client, fast, cat):
    images = {"left": "/data/upload/1/cup.png", "pages": ["/data/upload/1/cup.png", "/data/upload/1/cat.png"]}
    on_page = click(40, 40, to_name="right", from_name="kpr", item_index=1)
    (result,) = predict(client, body(on_page, config=SEVERAL, **images))
    (region,) = result["result"]
    assert (region["to_name"], region["from_name"], region["item_index"]) == ("right", "brushr", 1)
    np.testing.assert_array_equal(mask_of(region), fast.segment(cat, [Click(0.4 * 451, 0.4 * 300)]).mask)
    on_left = click(40, 40, to_name="left", from_name="kpl", size=(600, 400))
    (result,) = predict(client, body(on_page, on_left, config=SEVERAL, **images))
    assert result["result"][0]["to_name"] == "left"
    assert result["result"][0]["original_width"] == 600
    reply = client.post("/predict", json=body(click(40, 40, to_name="right", item_index=5), config=SEVERAL, **images))
    assert reply.status_code == 400
    assert "no image of the 2" in reply.json["error"]


def test_the_clicked_label_goes_back(client):
    (result,) = predict(client, body(click(40, 40, label="Cup")))
    assert result["result"][0]["value"]["brushlabels"] == ["Cup"]


def test_negative_clicks_alone_are_an_empty_mask_not_an_error(client):
    (result,) = predict(client, body(click(40, 40, positive=False)))
    assert result["result"] == []


@pytest.mark.parametrize("context", [None, {}, {"result": None}, {"result": []}])
def test_opening_a_task_answers_nothing_and_fetches_the_image_ahead(client, studio, context):
    request = body()
    request["params"]["context"] = context
    assert predict(client, request) == []
    deadline = time.monotonic() + 10
    while not studio.counts("/data/upload/1/cat.png") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert studio.counts("/data/upload/1/cat.png") == 1
    predict(client, body(click(40, 40)))
    assert studio.counts("/data/upload/1/cat.png") == 1


def test_a_reply_depends_on_its_request_alone(client, make_client):
    first = predict(client, body(click(40, 40)))
    predict(client, body(click(40, 40), click(20, 20, positive=False)))
    predict(client, body(click(10, 80, size=(600, 400)), image="/data/upload/1/cup.png", task=8))
    assert predict(client, body(click(40, 40))) == first
    assert predict(make_client(), body(click(40, 40))) == first


def test_ids_differ_between_tasks_clicks_and_labels(client):
    requests = [body(click(40, 40)), body(click(40, 41)), body(click(40, 40), task=8), body(click(40, 40, label="Cup"))]
    ids = [predict(client, request)[0]["result"][0]["id"] for request in requests]
    assert len(set(ids)) == 4


def test_data_addresses_and_names_with_blanks_work(client, fast, cat):
    expected = fast.segment(cat, [Click(0.4 * 451, 0.4 * 300)]).mask
    inline = "data:image/png;base64," + base64.b64encode(png(data.chelsea())).decode()
    for address in (inline, "/data/upload/1/two words ü.png", "/data/local-files/?d=shelf/cat.png"):
        (result,) = predict(client, body(click(40, 40), image=address))
        np.testing.assert_array_equal(mask_of(result["result"][0]), expected)


def test_the_config_may_name_fields_by_path(client):
    config = BRUSH.replace("$image", "$meta.photo")
    (result,) = predict(client, body(click(40, 40), config=config, meta={"photo": "/data/upload/1/cat.png"}))
    assert result["result"]


def test_an_image_is_decoded_once_for_many_clicks(make_backend, monkeypatch):
    backend: Backend = make_backend()
    decoded = []
    real = LoadedImage.from_bytes
    monkeypatch.setattr(LoadedImage, "from_bytes", staticmethod(lambda *a, **k: decoded.append(1) or real(*a, **k)))
    for x in (30, 40, 50):
        backend.predict(body(click(x, 40)))
    assert len(decoded) == 1


def test_a_twin_that_says_negative_makes_the_click_negative(client, fast, cat):
    first = click(40, 40)
    point = {**click(80, 80, positive=False, identity="twin"), "type": "keypointlabels"}
    label = {**click(80, 80, positive=None, identity="twin"), "type": "labels"}
    (result,) = predict(client, body(first, label, point))
    expected = fast.segment(cat, [Click(0.4 * 451, 0.4 * 300), Click(0.8 * 451, 0.8 * 300, False)])
    np.testing.assert_array_equal(mask_of(result["result"][0]), expected.mask)


def test_several_labels_of_a_click_all_come_back(client):
    point = click(40, 40)
    point["value"] |= {"keypointlabels": ["Cat", "Cup"], "labels": ["Cat", "Cup"]}
    (result,) = predict(client, body(point))
    assert result["result"][0]["value"]["brushlabels"] == ["Cat", "Cup"]


def test_a_click_without_label_gets_the_only_one_there_is(client):
    point = click(40, 40)
    for key in ("labels", "keypointlabels"):
        del point["value"][key]
    (result,) = predict(client, body(point, config=UNIFIED))
    assert [r["value"].get("labels") for r in result["result"]] == [None, ["Cat"]]
    (result,) = predict(client, body(point))  # two labels: which of them is the annotator's to say
    assert "brushlabels" not in result["result"][0]["value"]


def test_an_image_address_may_be_a_template(client, fast, cat):
    config = BRUSH.replace('"$image"', '"/data/upload/$shelf/$name.png"')
    (result,) = predict(client, body(click(40, 40), config=config, shelf=1, name="cat"))
    expected = fast.segment(cat, [Click(0.4 * 451, 0.4 * 300)])
    np.testing.assert_array_equal(mask_of(result["result"][0]), expected.mask)


def test_holes_cost_a_polygon_no_points(make_client, fast, monkeypatch):
    """A flower with many holes: the outline is as good as without them."""
    rows, columns = np.mgrid[:300, :451]
    angle, radius = np.arctan2(rows - 150, columns - 225), np.hypot(rows - 150, columns - 225)
    whole = radius < 100 + 25 * np.sin(9 * angle)
    mask = whole & ~((rows % 24 < 6) & (columns % 24 < 6) & (radius < 70))
    found = MaskResult(MaskRuns.of(mask), 0.9, (0, 299, 0, 450), {}, None)
    monkeypatch.setattr(fast.__class__, "segment", lambda *_, **__: found)
    (result,) = predict(make_client(), body(click(50, 50), config=POLYGON))
    points = np.concatenate([r["value"]["points"] for r in result["result"]])
    drawn = draw.polygon2mask((300, 451), points[:, ::-1] * [3, 4.51] - 0.5)
    assert (drawn & whole).sum() / (drawn | whole).sum() > 0.99
