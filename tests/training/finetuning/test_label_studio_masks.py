"""Label Studio: the right mask for each kind of region; bad ones cost themselves.

Brush masks are written by `ls_backend.rle`, whose bytes tests/ls_backend/test_rle.py compares with Label Studio's own.
"""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from skimage import draw as skdraw

from tests.training.finetuning.label_studio_exports import (
    RNG,
    SIZES,
    annotated,
    blob,
    brush,
    drawn,
    packed,
    read,
    region,
    save,
    skipped,
)
from training.finetuning.readers import label_map
from training.finetuning.readers.annotations import BadAnnotationError
from training.finetuning.readers.label_studio import decode_rle


@pytest.fixture
def folder(tmp_path):
    for name, size in SIZES.items():
        save(tmp_path / name, size)
    return tmp_path


def one(value, folder, name="a.png", size=(40, 60), **more):
    photos, report = read([annotated({"image": name}, region(value, size=size, **more))], folder)
    (photo,) = photos
    labels, _ = label_map.draw(photo, *size, report)
    return labels > 0, report


@pytest.mark.parametrize("degrees", [0, 30, 90, 200])
def test_ellipses_are_in_percent_and_turned_on_the_photo(folder, degrees):
    """scikit-image turns against the clock, in pixels."""
    value = {"x": 50, "y": 40, "radiusX": 20, "radiusY": 25, "rotation": degrees}
    mask, report = one(value, folder, "wide.png", (30, 90))
    expected = np.zeros((30, 90), bool)
    rows, columns = skdraw.ellipse(12 - 0.5, 45 - 0.5, 7.5, 18, expected.shape, rotation=-np.deg2rad(degrees))
    expected[rows, columns] = True
    assert (mask != expected).sum() <= 2  # middles on the line itself
    assert not report.rows


def test_polygons_are_in_percent(folder):
    ring = np.array([[10, 10], [50, 12], [80, 60], [30, 90]], float)
    mask, _ = one({"points": ring.tolist(), "closed": True, "polygonlabels": ["x"]}, folder)
    expected = skdraw.polygon2mask((40, 60), ring[:, ::-1] / 100 * [40, 60] - 0.5)
    assert (mask != expected).sum() <= 1
    without = {"id": "1", "value": {"points": ring.tolist()}}  # no size at all
    (photo,), _ = read([annotated({"image": "a.png"}, without)], folder)
    assert photo.photo.size is None
    np.testing.assert_array_equal(drawn(photo, (40, 60))[0], mask)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_rotate_tool_leaves_coordinates_and_masks_as_they_are(folder, degrees):
    """As Label Studio's page stores them: of the photo before it was turned."""
    mask, _ = one(
        {"format": "rle", "rle": packed(blob((30, 90)))},
        folder,
        "wide.png",
        (30, 90),
        image_rotation=degrees,
    )
    np.testing.assert_array_equal(mask, blob((30, 90)))


def bitmask(pixels, **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", **options)
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()}


def test_bitmasks_are_what_is_not_transparent_whatever_its_colour(folder):
    inside = blob((40, 60))
    black = np.zeros((40, 60, 4), np.uint8)
    black[..., 3] = inside * 255
    black[0, :3, 3] = 1, 100, 200  # soft edges
    expected = inside.copy()
    expected[0, 2] = True
    for pixels in (black, black | np.array([255, 255, 255, 0], np.uint8)):
        mask, report = one(bitmask(pixels), folder)
        np.testing.assert_array_equal(mask, expected)
        assert not report.rows
    gray = np.stack([np.zeros((40, 60), np.uint8), black[..., 3]], -1)
    np.testing.assert_array_equal(one(bitmask(gray), folder)[0], expected)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png():
    head = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def texts():
    info = PngImagePlugin.PngInfo()
    info.add_text("x", "y" * 10_000_000, zip=True)
    return bitmask(np.zeros((40, 60, 4), np.uint8), pnginfo=info)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (bitmask(np.zeros((41, 60, 4), np.uint8)), "a mask of another size than its photo"),
        (bitmask(np.zeros((40, 60, 3), np.uint8)), "a bitmask without transparency"),
        (
            {"imageDataURL": "data:image/png;base64," + base64.b64encode(huge_png()).decode()},
            "a bitmask that is damaged",
        ),
        ({"imageDataURL": bitmask(np.zeros((40, 60, 4), np.uint8))["imageDataURL"][:-60]}, "a bitmask that is damaged"),
        (texts(), "a bitmask that is damaged"),
        ({"imageDataURL": "http://host/mask.png"}, "a bitmask that is no data: address"),
        ({"imageDataURL": 5}, "a bitmask that is no data: address"),
        ({"rle": packed(blob((40, 61)))}, "a brush mask of another size than its photo"),
        ({"rle": packed(blob((40, 60)))[:-9]}, "a brush mask that is damaged"),
        ({"rle": [*packed(blob((40, 60))), 0, 0, 7]}, "a brush mask that is damaged"),
        ({"rle": [255] * 20}, "a brush mask that is damaged"),
        ({"rle": [300]}, "a brush mask that is damaged"),
        ({"rle": ["a"]}, "a brush mask that is damaged"),
        ({"rle": None}, "a brush region without a mask"),
        ({"rle": 10**9}, "a brush region without a mask"),
        ({"points": [[1, 1], [2, 2]]}, "fewer than three points"),
        ({"points": []}, "fewer than three points"),
        ({"points": {"x": 1}}, "a polygon that is no list of points"),
        ({"points": [[1, 1], [2, 2], [3]]}, "a coordinate that is no number"),
        ({"points": [[1, 1], [2, 2], [3, "x"]]}, "a coordinate that is no number"),
        ({"points": [[1, 1], [2, 2], [3, float("nan")]]}, "a coordinate that is no number"),
        ({"points": [[1, 1], [2, 2], [3, 10**400]]}, "a coordinate that is no number"),
        ({"points": [[1, 1], [2, 2], [3, 1e308]]}, "a coordinate far outside the photo"),
        ({"points": [[1, 1], [2, 2], [3, 1e12]]}, "a coordinate far outside the photo"),
        ({"x": 1, "y": 1, "radiusX": float("inf"), "radiusY": 3}, "a coordinate that is no number"),
        ({"x": 1, "y": 1, "radiusX": 1e300, "radiusY": 3}, "a coordinate far outside the photo"),
        ({"x": 10**400, "y": 1, "radiusX": 1, "radiusY": 3}, "a coordinate far outside the photo"),
        ({"x": 1, "y": 1, "radiusX": 3}, "a coordinate that is no number"),
        ({"x": 1, "y": 1, "radiusX": 3, "radiusY": 0}, "no extent"),
    ],
)
def test_a_bad_region_costs_itself_and_is_named(folder, value, kind):
    good = brush(blob((40, 60)), "good")
    photos, report = read([annotated({"image": "a.png"}, region(value, "bad"), good)], folder)
    labels, objects = label_map.draw(photos[0], 40, 60, report)
    np.testing.assert_array_equal(labels > 0, blob((40, 60)))
    assert [annotation.name for _, annotation in objects] == ["region good"]
    assert skipped(report) == {kind: 1}
    assert "region bad" in report.rows[0][2]


def test_a_mask_that_was_drawn_on_another_size_is_refused_although_its_pixels_are_as_many(folder):
    turned = brush(blob((60, 40)), "turned")
    (photo,), report = read([annotated({"image": "a.png"}, brush(blob((40, 60))), turned)], folder)
    label_map.draw(photo, 40, 60, report)
    assert skipped(report) == {"a mask of another size than its photo": 1}
    sizeless = {"id": "1", "value": {"rle": packed(blob((40, 60)))}}
    (photo,), report = read([annotated({"image": "a.png"}, sizeless)], folder)
    np.testing.assert_array_equal(drawn(photo, (40, 60))[0], blob((40, 60)))
    with pytest.raises(BadAnnotationError):
        drawn(photo, (40, 61))


def test_what_outlines_nothing_is_counted_by_kind(folder):
    box = {"x": 1, "y": 2, "width": 30, "height": 20, "rotation": 15, "rectanglelabels": ["x"]}
    results = [
        region(box, "box", type="rectanglelabels"),
        region({**box, "choices": ["yes"]}, "box", type="choices"),
        region({**box, "text": ["abc"]}, "box", type="textarea"),
        region({"x": 1, "y": 2, "width": 0.3, "keypointlabels": ["x"]}, "point"),
        region({"vertices": [{"x": 1, "y": 2}], "closed": True}, "vector"),
        region({"points": [[1, 1], [2, 2], [3, 1]], "closed": False}, "open"),
        {"id": "video", "to_name": "video", "value": {"sequence": [{"frame": 1, "x": 1, "y": 1}], "labels": ["x"]}},
        {"type": "relation", "from_id": "box", "to_id": "point", "direction": "right"},
        {"type": "choices", "to_name": "image", "value": {"choices": ["good"]}},
        {"type": "textarea", "to_name": "image", "value": {"text": ["good"]}},
        {"type": "labels", "to_name": "text", "value": {"start": 1, "end": 3, "labels": ["x"]}},
        brush(blob((40, 60))),
        7,
    ]
    (photo,), report = read([annotated({"image": "a.png", "video": "v.mp4"}, *results)], folder)
    assert len(photo.annotations) == 1
    assert skipped(report) == {
        "rectangle": 1,
        "keypoint": 1,
        "vector": 1,
        "polygon that is not closed": 1,
        "video": 1,
        "region that cannot be read": 1,
    }


@pytest.mark.parametrize("labels_first", [False, True])
def test_a_region_with_unified_labels_is_one_object(folder, labels_first):
    value = {"format": "rle", "rle": packed(blob((40, 60)))}
    results = [region(value, type="brush"), region({**value, "labels": ["Cell"]}, type="labels")]
    results += [region({**value, "choices": ["sharp"]}, type="choices")]
    (photo,), report = read([annotated({"image": "a.png"}, *results[:: -1 if labels_first else 1])], folder)
    assert [annotation.label for annotation in photo.annotations] == ["Cell"]
    assert not report.rows


def test_two_outlines_under_one_id_are_told(folder):
    results = brush(blob((40, 60))), brush(blob((40, 60), 4))
    (photo,), report = read([annotated({"image": "a.png"}, *results)], folder)
    np.testing.assert_array_equal(drawn(photo)[0], blob((40, 60)))
    assert skipped(report) == {"another outline under the id of a region": 1}


def test_a_photo_that_is_missing_is_told_once_with_its_regions(folder):
    tasks = [annotated({"image": "gone.png"}, *(brush(blob((40, 60)), str(i)) for i in range(3))), {"no": "task"}]
    photos, report = read(tasks, folder)
    assert photos == []
    assert skipped(report) == {"no such photo": 1, "entry that is no task": 1}
    assert "(3 regions)" in report.rows[0][3]


def stream(total, *runs, word=8, sizes=(3, 4, 8, 16)):
    bits = f"{total:032b}{word - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes) + "".join(runs)
    return [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]


TWO_AS_THEY_ARE = "0" + "00" + f"{1:03b}" + f"{7:08b}{9:08b}"
FOUR_TIMES = "1" + "01" + f"{3:04b}" + f"{255:08b}"


def test_runs_of_unlike_values_are_unpacked():
    assert decode_rle(stream(6, TWO_AS_THEY_ARE, FOUR_TIMES)).tolist() == [7, 9, 255, 255, 255, 255]
    assert decode_rle([*stream(6, FOUR_TIMES, TWO_AS_THEY_ARE), 0, 0], {6}).tolist() == [255] * 4 + [7, 9]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (stream(6, TWO_AS_THEY_ARE, FOUR_TIMES)[:-2], "end early"),
        (stream(5, TWO_AS_THEY_ARE, FOUR_TIMES), "more than they say"),
        (stream(6, TWO_AS_THEY_ARE, FOUR_TIMES, FOUR_TIMES), "more follows"),
        (stream(6, FOUR_TIMES, word=4), "values of 4 bits"),
        (stream(1 << 31), "another size"),
        ([], "end early"),
    ],
)
def test_streams_that_lie_are_refused(data, why):
    with pytest.raises(BadAnnotationError, match=why):
        decode_rle(data)


def test_any_bytes_survive_label_studios_way_of_packing():
    """Noise as alpha, packed by the definition with runs of every size."""
    values = np.repeat(RNG.integers(0, 256, 400, np.uint8), RNG.integers(1, 300, 400))
    runs, place = [], 0
    while place < len(values):
        size = int(RNG.integers(0, 4))
        length = int(min(RNG.integers(1, 2 ** min((3, 4, 8, 16)[size], 9) + 1), len(values) - place))
        piece = values[place : place + length]
        flag = bool((piece == piece[0]).all() and RNG.random() < 0.7)
        words = piece[:1] if flag else piece
        runs.append(f"{int(flag)}{size:02b}{length - 1:0{(3, 4, 8, 16)[size]}b}" + "".join(f"{v:08b}" for v in words))
        place += length
    np.testing.assert_array_equal(decode_rle(stream(len(values), *runs)), values)
