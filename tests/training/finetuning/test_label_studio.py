"""Label Studio: the right photo for each region, and the annotation of a task that counts."""

import base64
import io
import time
import unicodedata
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.training.finetuning.label_studio_exports import (
    SIZES,
    annotated,
    blob,
    brush,
    by_file,
    drawn,
    read,
    save,
    skipped,
)
from training.finetuning.readers import label_map
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.label_studio.addresses import names
from training.finetuning.readers.label_studio.config import task_value


@pytest.fixture
def folder(tmp_path):
    for name, size in SIZES.items():
        save(tmp_path / name, size)
    return tmp_path


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


@pytest.mark.parametrize("text", ["?" * 60_000, "?&" * 30_000, "?a=" * 20_000, "&" * 60_000, "?d=" + "%" * 60_000])
def test_a_long_address_takes_no_time(text):
    start = time.process_time()
    names(text)
    assert time.process_time() - start < 2  # quadratic in its length, it took 20 seconds


def test_parameters_of_an_address_are_those_of_the_standard_library():
    for query in ("a=b.png&c=d%20e.jpg", "x&y=1&z=f+g.png", "k=a?b.png&k2=c=d.png", "=a.png&b=", "q=a.png#r=b.png"):
        expected = [value for _, value in parse_qsl(urlsplit(f"http://h/p?{query}").query)]
        found = names(f"http://h/p?{query}")
        assert [value for value in expected if value.endswith(("png", "jpg"))] == [n for n in found if n in expected]
    assert "photos/a b.png" in names("/data/local-files/?d=photos/a%20b.png")


def test_a_value_list_goes_by_index(folder):
    first, second = blob((40, 60)), blob((40, 60), 5)
    data = {"pages": ["/data/upload/1/0a1b2c3d-a.png", "b.png"], "cover": "wide.png"}
    task = annotated(data, brush(second, "x", item_index=1), brush(first, "y", item_index=0))
    for options in ({}, {"config": '<View><Image name="image" valueList="$pages"/></View>'}):
        found = by_file(read([task], folder, **options)[0])
        assert set(found) == {"a.png", "b.png"}
        np.testing.assert_array_equal(drawn(found["a.png"])[0], first)
        np.testing.assert_array_equal(drawn(found["b.png"])[0], second)
    options = {"config": '<View><Image name="image" valueList="$pages"/></View>'}
    photos, report = read([annotated({"pages": ["a.png"]}, brush(first, item_index=3))], folder, **options)
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


@pytest.mark.parametrize(
    "later",
    [
        [],
        [{"type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["good"]}}],
        [{"type": "rectanglelabels", "to_name": "image", "value": {"x": 1, "y": 1, "width": 5, "height": 5}}],
    ],
)
@pytest.mark.parametrize("truth", [False, True])
def test_an_annotation_with_outlines_comes_before_one_without(folder, later, truth):
    tasks, masks = versions({"updated_at": "2026-01-01T00:00:00Z"})
    facts = {"id": 99, "updated_at": "2026-05-01T00:00:00Z", "ground_truth": truth, "result": later}
    tasks[0]["annotations"].append(facts)
    (photo,), report = read(tasks, folder)
    np.testing.assert_array_equal(drawn(photo)[0], masks[0])
    assert report.counts("decided") == {"annotation passed over for another of its task": 1}
