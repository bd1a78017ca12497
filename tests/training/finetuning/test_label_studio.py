"""Each kind of Label Studio's exports: the right photo, the right annotation, the right mask.

Brush masks are written by `ls_backend.rle`, whose bytes tests/ls_backend/test_rle.py compares with Label Studio's own.
"""

import base64
import io
import json
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from skimage import draw as skdraw

from ls_backend import rle as studio_rle
from training.finetuning.readers import label_map
from training.finetuning.readers.annotations import AnnotationError, BadAnnotationError
from training.finetuning.readers.label_studio import decode_rle, is_label_studio, label_studio_tasks, read_label_studio
from training.finetuning.readers.label_studio.config import task_value
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

SIZES = {"a.png": (40, 60), "b.png": (40, 60), "wide.png": (30, 90), "small.png": (10, 15)}  # height, width
RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    for name, size in SIZES.items():
        save(tmp_path / name, size)
    return tmp_path


def save(path, size, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(path, **options)


def blob(size, place=0):
    """A ragged mask with a hole."""
    mask = np.zeros(size, bool)
    mask[3 + place : size[0] - 2, 4:20] = True
    mask[6 + place : 9 + place, 8:12] = False
    mask[4 + place, 10:30:2] = True
    return mask


def region(value, number="r1", size=(40, 60), to_name="image", **more):
    sizes = {"original_height": size[0], "original_width": size[1]}
    return {"id": number, "to_name": to_name, "from_name": "mask", "image_rotation": 0, **sizes, "value": value, **more}


def brush(mask, number="r1", to_name="image", label="Cell", **more):
    value = {"format": "rle", "rle": studio_rle.encode(mask), "brushlabels": [label]}
    return region(value, number, mask.shape, to_name, type="brushlabels", **more)


def annotated(data, *results, **facts):
    return {"id": 7, "data": data, "annotations": [{"id": 1, "result": list(results), **facts}]}


def read(content, folder, **options):
    report = ReadingReport()
    photos = list(read_label_studio(content, PhotoFinder(folder), report, "export.json", **options))
    return photos, report


def drawn(photo, size=None):
    """The masks of a photo's annotations, each by itself."""
    masks = []
    for annotation in photo.annotations:
        (shape,) = annotation.shapes
        masks.append(shape.draw(*(size or photo.photo.size)))
    return masks


def by_file(photos):
    return {photo.photo.file.name: photo for photo in photos}


def skipped(report):
    return report.counts("skipped")


# Which photo ---------------------------------------------------------------------------------------------------------

TWO = """<View><Image name="left" value="$first"/><image NAME="right" Value="$second"/>
<BrushLabels name="mask" toName="left"><Label value="Cell"/></BrushLabels></View>"""


def test_two_images_on_a_page_each_get_their_masks(folder):
    left, right = blob((40, 60)), blob((40, 60), 5)
    task = annotated({"left": "x/a.png", "right": "x/b.png"}, brush(right, "1", "right"), brush(left, "2", "left"))
    photos, report = read([task], folder)
    found = by_file(photos)
    np.testing.assert_array_equal(drawn(found["a.png"])[0], left)
    np.testing.assert_array_equal(drawn(found["b.png"])[0], right)
    assert {photo.photo.group for photo in photos} == {"task 7"}
    assert not report.rows


def test_names_of_images_that_are_no_keys_are_told_by_the_config_or_refused(folder):
    left, right = blob((40, 60)), blob((40, 60), 5)
    task = annotated({"first": "a.png", "second": "b.png"}, brush(right, "1", "right"), brush(left, "2", "left"))
    photos, report = read([task], folder)
    assert photos == []
    assert skipped(report) == {"which photo is meant is not told": 2}
    assert any("task 7 of export.json" in name and "--label-config" in why for _, _, name, why in report.rows)
    found = by_file(read([task], folder, config=TWO)[0])
    np.testing.assert_array_equal(drawn(found["a.png"])[0], left)
    np.testing.assert_array_equal(drawn(found["b.png"])[0], right)


def test_an_image_that_only_one_of_two_photos_fits_is_that_photo(folder):
    mask = blob((30, 90))
    photos, report = read([annotated({"first": "a.png", "second": "wide.png"}, brush(mask, to_name="img"))], folder)
    assert photos[0].photo.file.name == "wide.png"
    assert report.counts("decided") == {"photo of several, told by its size": 1}


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        ({"thumbnail": "small.png", "photo": "a.png"}, (40, 60), "a.png"),  # by its size
        ({"photo": "a.png", "thumbnail": "small.png", "caption": "a photo/small"}, (40, 60), "a.png"),
        ({"caption": "b", "image": "a.png"}, (40, 60), "a.png"),  # no address
        ({"image": "a.png", "other": "b.png"}, (40, 60), "a.png"),  # by its name
        ({"image": "small.png", "full": "a.png"}, (40, 60), "a.png"),  # the name leads to another size
        ({"one": "a.png", "other": "b.png"}, (40, 60), None),
        ({"image": "gone.png", "other": "a.png"}, (40, 60), None),
        ({"photo": "gone.png", "thumbnail": "small.png"}, (40, 60), None),
        ({"photo": "a.png", "web": "https://example.org/page"}, (40, 60), "a.png"),
        ({"one": "/x/a.png", "same": "s3://shelf/a.png"}, (40, 60), "a.png"),
        ({"meta": {"image": ["gone"]}, "nested": {"url": "a.png"}}, (40, 60), "a.png"),
        ({}, (40, 60), None),
    ],
)
def test_another_text_of_the_task_is_never_taken_for_the_photo(folder, data, size, expected):
    photos, report = read([annotated(data, brush(blob(size)))], folder)
    assert [photo.photo.file.name for photo in photos] == ([expected] if expected else [])
    assert bool(skipped(report)) == (expected is None)


def test_a_missing_photo_of_a_page_of_two_is_not_replaced_by_the_other(folder):
    """Both names are used in the export, and the only photo there is of the right size."""
    tasks = [
        annotated(
            {"first": "a.png", "second": "b.png"}, brush(blob((40, 60)), "1", "l"), brush(blob((40, 60)), "2", "r")
        ),
        annotated({"first": "a.png", "second": "gone.png"}, brush(blob((40, 60)), to_name="r")),
    ]
    assert read(tasks, folder)[0] == []


def test_a_named_key_decides(folder):
    task = annotated({"one": "a.png", "other": {"url": "b.png"}}, brush(blob((40, 60))))
    (photo,), _ = read([task], folder, image_key="other.url")
    assert photo.photo.file.name == "b.png"
    photos, report = read([task], folder, image_key="none")
    assert (photos, skipped(report)) == ([], {"no such photo": 1})


def test_a_value_list_goes_by_index(folder):
    first, second = blob((40, 60)), blob((40, 60), 5)
    data = {"pages": ["/data/upload/1/0a1b2c3d-a.png", "b.png"], "cover": "wide.png"}
    task = annotated(data, brush(second, "x", item_index=1), brush(first, "y", item_index=0))
    for options in ({}, {"config": '<View><Image name="image" valueList="$pages"/></View>'}):
        found = by_file(read([task], folder, **options)[0])
        assert set(found) == {"a.png", "b.png"}
        np.testing.assert_array_equal(drawn(found["a.png"])[0], first)
        np.testing.assert_array_equal(drawn(found["b.png"])[0], second)
    photos, report = read([annotated({"pages": ["a.png"]}, brush(first, item_index=3))], folder, image_key="pages")
    assert photos == []
    assert skipped(report) == {"which photo is meant is not told": 1}


def test_of_a_list_without_an_index_the_page_shows_the_first(folder):
    (photo,), _ = read([annotated({"pages": ["a.png", "b.png"]}, brush(blob((40, 60))))], folder)
    assert photo.photo.file.name == "a.png"


REPEATED = """<View><Repeater on="$images" indexFlag="{{i}}"><Image name="page_{{i}}" value="$images[{{i}}].url"/>
<BrushLabels name="mask_{{i}}" toName="page_{{i}}"/></Repeater></View>"""


@pytest.mark.parametrize("config", [None, REPEATED])
@pytest.mark.parametrize("entries", [[{"url": "a.png"}, {"url": "b.png"}], ["a.png", "b.png"]])
def test_a_repeaters_images_go_by_number(folder, config, entries):
    if config and isinstance(entries[0], str):
        config = config.replace("].url", "]")
    first, second = blob((40, 60)), blob((40, 60), 5)
    task = annotated({"images": entries}, brush(first, "1", "page_0"), brush(second, "2", "page_1"))
    found = by_file(read([task], folder, config=config)[0])
    np.testing.assert_array_equal(drawn(found["a.png"])[0], first)
    np.testing.assert_array_equal(drawn(found["b.png"])[0], second)


def test_numbers_from_one_are_not_taken_for_a_repeaters(folder):
    task = annotated({"images": ["a.png", "b.png"]}, brush(blob((40, 60)), "1", "page_1"))
    photos, report = read([task], folder)
    assert photos == []
    assert skipped(report) == {"which photo is meant is not told": 1}


@pytest.mark.parametrize(
    ("value", "data", "expected"),
    [
        ("$image", {"image": "a"}, "a"),
        ("$a.b", {"a": {"b": "x"}}, "x"),
        ("$a.b", {"a.b": "y"}, "y"),
        ("$images[1].url", {"images": [0, {"url": "z"}]}, "z"),
        ("https://host/$name.jpg", {"name": "cat"}, "https://host/cat.jpg"),
        ("$name.jpg", {"name": "cat"}, "cat.jpg"),
        ("$gone", {"name": "cat"}, None),
        ("$images[7]", {"images": ["a"]}, None),
        ("https://host/$gone", {}, None),
    ],
)
def test_values_of_a_config_are_read_as_the_page_reads_them(value, data, expected):
    assert task_value(value, data) == expected


@pytest.mark.parametrize(
    "config",
    [
        "<View>",
        "",
        "<View/>",
        "<!DOCTYPE a><View/>",
        "<a>" * 200 + "</a>" * 200,
        "<a>" * 100_000,
        "\ud800",
        "x" * 2**21,
    ],
)
def test_what_is_no_labelling_config_is_told(folder, config):
    with pytest.raises(AnnotationError, match="labelling config"):
        read([annotated({"image": "a.png"})], folder, config=config)


# Addresses -----------------------------------------------------------------------------------------------------------

LONG = "n" * 140 + "/" + "m" * 140 + "-é.png"


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/3/0a1b2c3d-my_photo_1.png", "dir/my photo (1).png"),
        ("/data/upload/3/0a1b2c3d-name.png", "name.png"),
        ("/data/upload/3/0a1b2c3d-name.png", "0a1b2c3d-name.png"),
        ("/data/upload/3/0a1b2c3d-na%23me.png", "na#me.png"),
        ("/data/local-files/?d=dir%5Cname.png", "dir/name.png"),
        ("/data/local-files/?d=dir%2Fna%2Bme.png", "dir/na+me.png"),
        ("/data/local-files/?d=dir/na+me.png", "dir/na+me.png"),
        ("http://host:8080/data/local-files/?d=C:%5Cphotos%5Cname.png", "name.png"),
        ("/data/name.png?d=/srv/dir", "dir/name.png"),
        ("s3://shelf/dir/name.png", "dir/name.png"),
        ("s3://shelf/dir/a%20b.png", "a%20b.png"),
        ("gs://shelf/dir/name#1.png", "dir/name#1.png"),
        ("https://example.org/dir/my%20name.png?X-Amz-Date=1&v=2.5#top", "dir/my name.png"),
        ("https://example.org/photo?path=dir%2Fname.png&w=3", "dir/name.png"),
        ("https://example.org/photos/17", "photos/17.png"),
        ("/tasks/5/resolve/?fileuri=" + base64.b64encode(b"s3://shelf/dir/name.png").decode(), "dir/name.png"),
        ("C:\\photos\\dir\\name.png", "dir/name.png"),
        ("/absolute/dir/NAME.PNG", "dir/name.png"),
        (unicodedata.normalize("NFD", "/data/dir/zoé.png"), unicodedata.normalize("NFC", "dir/zoé.png")),
        (unicodedata.normalize("NFC", "/data/dir/zoé.png"), unicodedata.normalize("NFD", "dir/zoé.png")),
        ("s3://shelf/" + LONG, LONG),
        ("what? 100%.png", "what? 100%.png"),
    ],
)
def test_addresses_lead_to_files(tmp_path, address, file):
    save(tmp_path / file, (40, 60))
    save(tmp_path / "other" / "unlike.png", (40, 60))
    (photo,), report = read([annotated({"image": address}, brush(blob((40, 60))))], tmp_path)
    assert photo.photo.file == tmp_path / file
    assert photo.photo.identity == address
    assert not report.rows


def test_the_prefix_of_an_upload_is_dropped_last_and_only_from_uploads(tmp_path):
    save(tmp_path / "name.png", (40, 60))
    assert read([annotated({"image": "s3://b/c/0a1b2c3d-name.png"}, brush(blob((40, 60))))], tmp_path)[0] == []
    save(tmp_path / "0a1b2c3d-name.png", (40, 60))
    (photo,), _ = read([annotated({"image": "/data/upload/1/0a1b2c3d-name.png"}, brush(blob((40, 60))))], tmp_path)
    assert photo.photo.file.name == "0a1b2c3d-name.png"


def test_images_within_the_export_are_read(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (60, 40)).save(content, "PNG")
    address = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    (photo,), report = read([annotated({"image": address}, brush(blob((40, 60))))], tmp_path)
    assert photo.photo.file == content.getvalue()
    assert len(photo.photo.identity) < 100
    labels, _ = label_map.draw(photo, 40, 60, report)
    np.testing.assert_array_equal(labels > 0, blob((40, 60)))
    photos, report = read([annotated({"image": "data:image/png;base64"}, brush(blob((40, 60))))], tmp_path)
    assert (photos, list(skipped(report))) == ([], ["a data: address that is damaged"])


# Which annotation ----------------------------------------------------------------------------------------------------


def versions(*annotations):
    masks = [blob((40, 60), place) for place in range(len(annotations))]
    listed = [{"id": 10 + i, "result": [brush(masks[i], str(i))], **facts} for i, facts in enumerate(annotations)]
    return [{"id": 1, "data": {"image": "a.png"}, "annotations": listed}], masks


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([{"ground_truth": True, "updated_at": "2020-01-01T00:00:00Z"}, {"updated_at": "2024-01-01T00:00:00Z"}], 0),
        ([{"updated_at": "2024-05-01T10:00:00.123456Z"}, {"updated_at": "2024-05-01T10:00:00Z"}], 0),
        ([{"updated_at": "2024-05-01T10:00:00+02:00"}, {"updated_at": "2024-05-01T09:00:00Z"}], 1),
        ([{"updated_at": "2024-05-01T10:00:00Z"}, {"updated_at": "2024-06-01T00:00:00Z", "was_cancelled": True}], 0),
        ([{"created_at": 1568825452}, {"created_at": 1568825000}], 0),
        ([{}, {}, {}], 2),  # the highest number
        ([{"id": 5}, {"id": 3}], 0),
        ([{"ground_truth": True, "was_cancelled": True}, {}], 1),
        ([{"honeypot": True}, {}], 0),
    ],
)
def test_the_annotation_that_counts(folder, annotations, expected):
    tasks, masks = versions(*annotations)
    (photo,), report = read(tasks, folder)
    np.testing.assert_array_equal(drawn(photo)[0], masks[expected])
    assert photo.ground_truth == any(annotations[expected].get(key) for key in ("ground_truth", "honeypot"))
    cancelled = sum(bool(a.get("was_cancelled")) for a in annotations)
    assert skipped(report).get("cancelled annotation", 0) == cancelled
    others = len(annotations) - cancelled - 1
    assert report.counts("decided").get("annotation passed over for another of its task", 0) == others


def test_times_compare_as_text(folder):
    tasks, _ = versions({"updated_at": "2024-05-01T10:00:00+02:00"})
    (photo,), _ = read(tasks, folder)
    assert photo.updated == "2024-05-01T08:00:00.000000+00:00"


def test_predictions_and_drafts_are_no_annotations(folder):
    prediction = {"id": 3, "model_version": "m2", "result": [brush(blob((40, 60)))]}
    task = {"id": 7, "data": {"image": "a.png"}, "annotations": [], "drafts": [4], "predictions": [prediction]}
    photos, report = read([task], folder)
    assert photos == []
    assert skipped(report) == {"draft that nobody submitted": 1, "predictions without an annotation": 1}
    (photo,), _ = read([task], folder, use_predictions=True)
    assert (photo.annotations[0].source, photo.annotations[0].annotator) == ("prediction", "m2")


@pytest.mark.parametrize(
    ("facts", "annotator"),
    [
        ({"completed_by": 3}, "3"),
        ({"completed_by": {"id": 3, "email": "a@b.c"}}, "a@b.c"),
        ({"completed_by": [3]}, ""),
        ({}, ""),
    ],
)
def test_who_drew_and_what_is_told(folder, facts, annotator):
    task = annotated({"image": "a.png"}, brush(blob((40, 60)), origin="prediction-changed"), **facts)
    annotation = read([task], folder)[0][0].annotations[0]
    assert annotation == type(annotation)("region r1", annotation.shapes, "Cell", "prediction-changed", annotator)


# Shapes --------------------------------------------------------------------------------------------------------------


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
        {"format": "rle", "rle": studio_rle.encode(blob((30, 90)))},
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
        ({"rle": studio_rle.encode(blob((40, 61)))}, "a brush mask of another size than its photo"),
        ({"rle": studio_rle.encode(blob((40, 60)))[:-9]}, "a brush mask that is damaged"),
        ({"rle": [*studio_rle.encode(blob((40, 60))), 0, 0, 7]}, "a brush mask that is damaged"),
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
    sizeless = {"id": "1", "value": {"rle": studio_rle.encode(blob((40, 60)))}}
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
    value = {"format": "rle", "rle": studio_rle.encode(blob((40, 60)))}
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


# Run lengths ---------------------------------------------------------------------------------------------------------


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


# Forms ---------------------------------------------------------------------------------------------------------------


def json_min(number, mask, name="a.png", **more):
    flat = {"rle": studio_rle.encode(mask), "format": "rle", "brushlabels": ["Cell"]}
    flat |= {"original_width": mask.shape[1], "original_height": mask.shape[0]}
    facts = {"annotator": 1, "annotation_id": number, "lead_time": 3.5, "created_at": "2024-01-01T00:00:00Z"}
    return {"image": name, "id": 7, "mask": [flat], "quality": "good", **facts, **more}


def test_json_min(folder):
    first, second = blob((40, 60)), blob((40, 60), 5)
    content = [
        json_min(2, second, updated_at="2024-02-01T00:00:00Z", quality="bad"),
        json_min(3, first, updated_at="2024-01-01T00:00:00Z"),
    ]
    (photo,), report = read(content, folder)
    np.testing.assert_array_equal(drawn(photo)[0], second)
    assert photo.annotations[0].label == "Cell"
    assert photo.annotations[0].annotator == "1"
    assert report.counts("decided") == {"annotation passed over for another of its task": 1}


def test_json_min_with_unified_labels_has_one_object(folder):
    entry = json_min(2, blob((40, 60)))
    bare = {key: value for key, value in entry["mask"][0].items() if key != "brushlabels"}
    entry |= {"mask": [bare], "label": [{**bare, "labels": ["Cell"]}]}
    (photo,), _ = read([entry], folder)
    assert [annotation.label for annotation in photo.annotations] == ["Cell"]


def test_json_min_does_not_say_which_image(folder):
    entry = {**json_min(2, blob((40, 60))), "image": "a.png", "second": "b.png"}
    assert read([entry], folder)[0] == []
    config = (
        '<View><Image name="r" value="$second"/><Image name="l" value="$image"/><Brush name="mask" toName="r"/></View>'
    )
    assert read([entry], folder, config=config)[0][0].photo.file.name == "b.png"
    pages = {**json_min(2, blob((40, 60))), "image": ["a.png", "b.png"]}
    config = '<View><Image name="r" valueList="$image"/><Brush name="mask" toName="r"/></View>'
    for options in ({}, {"config": config}):
        photos, report = read([pages], folder, **options)
        assert photos == []
        assert skipped(report) == {"which photo is meant is not told": 1}
    wide = {**json_min(2, blob((30, 90))), "image": ["a.png", "wide.png"]}
    for options in ({}, {"config": config}):
        assert read([wide], folder, **options)[0][0].photo.file.name == "wide.png"


def test_completions_of_old_and_files_of_a_target_storage(folder):
    result = [brush(blob((40, 60)))]
    data = {"image": "a.png"}
    contents = [
        [{"id": 7, "data": data, "completions": [{"id": 1, "result": result, "created_at": 1568825452}]}],
        {"id": 7, "data": data, "completions": [{"id": 1, "result": result}, {"id": 2, "skipped": True, "result": []}]},
        {"id": 7, "data": data, "annotations": [{"id": 1, "result": result}]},
        {"id": 1, "result": result, "task": {"id": 7, "data": data}, "completed_by": {"id": 1, "email": "x@y.z"}},
        {"id": 1, "result": result, "task": {"id": 7, **data}},
        [{"id": 1, "result": result, "task": {"id": 7, "data": data}}],
        [{"data": "a.png", "annotations": [{"result": result}]}],
    ]
    for content in contents:
        content = json.loads(json.dumps(content))
        assert is_label_studio(content)
        (photo,), _ = read(content, folder)
        np.testing.assert_array_equal(drawn(photo)[0], blob((40, 60)))
        assert label_studio_tasks(label_studio_tasks(content)) == label_studio_tasks(content)


def test_annotations_without_their_tasks_say_what_to_do(folder):
    content = {"id": 1, "result": [brush(blob((40, 60)))], "task": 7}
    assert is_label_studio(content)
    with pytest.raises(AnnotationError, match="export the project as JSON"):
        read(content, folder)


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        "x",
        [],
        [3],
        [{}],
        {"images": [], "annotations": [], "categories": []},  # COCO
        {"version": "5", "shapes": [{"points": [[1, 2]]}], "imagePath": "a.png"},  # labelme
        {"info": {}, "items": []},
        [{"image": "a.png", "annotations": [{"label": "x", "coordinates": {}}]}],  # Create ML
        [{"id": 1, "segmentation": [[1, 2, 3, 4, 5, 6]], "image_id": 1}],
    ],
)
def test_other_json_is_not_taken_for_label_studios(folder, content):
    assert not is_label_studio(content)
    assert label_studio_tasks(content) is None
    with pytest.raises(AnnotationError, match="no export of Label Studio"):
        read(content, folder)
