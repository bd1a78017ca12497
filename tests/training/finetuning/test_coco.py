"""COCO JSON as tools and people write it: what is read, and what is skipped."""

import json
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from tests.training.coco_masks import HEIGHT, SQUARE, WIDTH, packed, plain, shortened, square
from training.finetuning.readers import label_map
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.coco import read_coco
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport


@pytest.fixture
def photos(tmp_path):
    for name in ("p0.jpg", "a/001.jpg", "b/001.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (len(name), 0, ord(name[0]))).save(tmp_path / name)
    return PhotoFinder(tmp_path)


def image(number=1, name="p0.jpg", **others):
    return {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, **others}


def annotation(segmentation=SQUARE, number=1, **others):
    return {"id": 7, "image_id": number, "category_id": 3, "segmentation": segmentation, **others}


def read(finder, annotations, images=None, **others):
    """Photos and report; the content goes through JSON as it does in files."""
    report = ReadingReport()
    content = {"images": [image()] if images is None else images, "annotations": annotations, **others}
    content = json.loads(json.dumps(content))
    return list(read_coco(content, finder, report, "instances.json")), report


def masks(photo, report):
    """The (value, mask) of each object that was drawn, with the map."""
    labels, objects = label_map.draw(photo, HEIGHT, WIDTH, report)
    return labels, [(labels == value, one) for value, one in objects]


def drawn(finder, segmentation, **others):
    found, report = read(finder, [annotation(segmentation, **others)])
    assert len(found) <= 1
    return [mask for photo in found for mask, _ in masks(photo, report)[1]], report


@pytest.mark.parametrize(
    "name",
    ["p0.jpg", "/data/x/p0.jpg", "../../p0.jpg", "C:\\photos\\p0.jpg", "..\\p0.jpg", "P0.JPG", "http://host/x/p0.jpg"],
)
def test_photos_are_found_whatever_stands_before_their_names(photos, name):
    (photo,), report = read(photos, [annotation()], [image(name=name)])
    assert photo.photo.file == photos.folder / "p0.jpg"
    assert photo.photo.identity == name
    assert photo.photo.size == (HEIGHT, WIDTH)
    assert photo.by_size
    assert not report.rows


def test_photos_of_one_name_in_two_folders_are_two(photos):
    images = [image(1, "a/001.jpg"), image(2, "b\\001.jpg")]
    found, _ = read(photos, [annotation(number=1), annotation(number=2)], images)
    assert [photo.photo.file for photo in found] == [photos.folder / "a" / "001.jpg", photos.folder / "b" / "001.jpg"]


def test_lvis_names_photos_by_address(photos):
    entry = {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/p0.jpg", "height": HEIGHT, "width": WIDTH}
    (photo,), _ = read(photos, [annotation()], [entry])
    assert photo.photo.file == photos.folder / "p0.jpg"


def test_a_photo_within_the_file(photos):
    (photo,), _ = read(photos, [annotation()], [image(name="data:image/png;base64,aGVsbG8=")])
    assert (photo.photo.file, photo.photo.identity) == (b"hello", "image 1")


def test_a_photo_that_is_not_there_costs_itself(photos):
    found, report = read(photos, [annotation(), annotation(number=2)], [image(2, "gone.jpg"), image()])
    assert [photo.photo.identity for photo in found] == ["p0.jpg"]
    assert report.counts("skipped") == {"no such photo": 1}


@pytest.mark.parametrize(
    ("of_image", "of_annotation"), [(1, "1"), ("1", 1), (1, 1.0), ("1", 1.0), ("a", "a"), (1.0, 1)]
)
def test_ids_are_matched_as_numbers_or_text(photos, of_image, of_annotation):
    found, report = read(photos, [annotation(number=of_annotation)], [image(of_image)])
    assert len(found) == 1
    assert not report.rows


@pytest.mark.parametrize("number", ["01", "1 ", 2, None, True, 1.5, [1], {"a": 1}, float("nan"), 10**30])
def test_annotations_of_no_image_are_counted_and_named(photos, number):
    found, report = read(photos, [annotation(), annotation(number=number, id=12)])
    assert len(found[0].annotations) == 1
    ((what, kind, name, why),) = report.rows
    assert (what, kind, name) == ("skipped", "an annotation of no image of the file", "annotation 12")
    assert "image_id" in why


def test_a_photo_that_comes_twice_comes_out_twice_and_an_id_of_two_photos_not_at_all(photos):
    twice = [image(1), image(2), image(2)]
    found, _ = read(photos, [annotation(number=1), annotation(number=2)], twice)
    assert [len(photo.annotations) for photo in found] == [1, 1, 1]
    assert {photo.photo.identity for photo in found} == {"p0.jpg"}
    found, report = read(photos, [annotation()], [image(1, "a/001.jpg"), image("1", "b/001.jpg")])
    assert not found  # its masks would lie on the wrong photo, and nothing tells on which
    assert report.counts("skipped") == {"several photos with one id": 2}


def test_labels_crowds_groups_and_sizes(photos):
    entries = [annotation(iscrowd=1), annotation(category_id="3"), annotation(category_id=9), annotation(iscrowd="0")]
    categories = [{"id": 3, "name": "nucleus"}, "what", {"id": 9}]
    images = [image(video_id=4, height=None)]
    (photo,), report = read(photos, entries, images, categories=categories, videos=[{"id": "4", "name": "lorry.mp4"}])
    assert [(one.label, one.ignored) for one in photo.annotations] == [
        ("nucleus", True),
        ("nucleus", False),
        ("", False),
        ("nucleus", False),
    ]
    assert photo.photo.group == "video lorry.mp4"
    assert photo.photo.size is None
    assert report.counts("decided") == {"a photo without height and width: the file's own are used": 1}
    (photo,), _ = read(photos, entries, [image(video_id=4)])
    assert photo.photo.group == "video 4"


def test_brush_masks_of_cvat_are_no_crowds(photos):
    mask = packed(square())
    mask["counts"] = plain(square())
    cvat = {"attributes": {"occluded": False}, "iscrowd": 1}
    (photo,), report = read(photos, [annotation(mask, **cvat), annotation(mask, iscrowd=1), annotation(**cvat)])
    assert [one.ignored for one in photo.annotations] == [False, True, True]
    assert sum(report.counts("decided").values()) == 1


def test_smaller_objects_lie_over_larger_ones_and_crowds_are_ignored(photos):
    small = np.zeros((HEIGHT, WIDTH), bool)
    small[8:10, 12:14] = True
    crowd = [[40, 20, 50, 20, 50, 30, 40, 30]]
    (photo,), report = read(photos, [annotation(packed(small)), annotation(), annotation(crowd, iscrowd=1)])
    labels, objects = masks(photo, report)
    np.testing.assert_array_equal(objects[0][0], small)
    np.testing.assert_array_equal(objects[1][0], square() & ~small)
    assert (labels[20:30, 40:50] == 255).all()


FORMS = {
    "polygon": SQUARE,
    "a ring without its list": SQUARE[0],
    "with empty lists": [[], *SQUARE, []],
    "with a ring of two points": [*SQUARE, [1, 1, 5, 5]],
    "packed": packed(square()),
    "packed, bytes as Python writes them": {
        "size": [HEIGHT, WIDTH],
        "counts": str(packed(square())["counts"].encode()),
    },
    "plain": {"size": [HEIGHT, WIDTH], "counts": plain(square())},
    "plain, real numbers": {"size": [40.0, 60.0], "counts": [float(n) for n in plain(square())]},
    "plain with empty runs": {"size": [HEIGHT, WIDTH], "counts": [0, 0, 0, 0, *plain(square()), 0, 0, 0]},
    "a list of run lengths": [packed(square())],
    "a size as text": {"size": [str(HEIGHT), str(WIDTH)], "counts": plain(square())},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_segmentation(photos, form):
    (mask,), report = drawn(photos, FORMS[form])
    np.testing.assert_array_equal(mask, square())
    assert not report.counts("skipped")


def shortened_text(step):
    # the last run alone is changed; pycocotools packs whatever adds up
    coded = rle.frPyObjects(shortened(step), HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": coded["counts"].decode()}


RUNS = packed(square())


BAD = {
    "none": (None, "no outline: a box"),
    "empty": ([], "no outline: a box"),
    "empty lists": ([[], []], "no outline: a box"),
    "two points": ([[1, 1, 5, 5]], "fewer than three points"),
    "one point, no list": ([1, 1], "fewer than three points"),
    "half a point": ([[1, 1, 5, 5, 9, 9, 3]], "a polygon that is no list of points"),
    "points in lists": ([[[1, 1], [5, 5], [9, 9], [3, 3], [4, 4], [5, 5]]], "a polygon that is no list of points"),
    "NaN": ([[1, 1, 20, 1, float("nan"), 20]], "a coordinate that is no number"),
    "NaN in one of two": ([*SQUARE, [1, 1, 20, 1, float("nan"), 20]], "a coordinate that is no number"),
    "infinite": ([[1, 1, 20, 1, float("inf"), 20]], "a coordinate that is no number"),
    "none for a number": ([[1, 1, 20, 1, None, 20]], "a coordinate that is no number"),
    "huge": ([[1, 1, 20, 1, 1e308, 20]], "a coordinate far outside the photo"),
    "huge whole number": ([[1, 1, 20, 1, 10**30, 20]], "a coordinate far outside the photo"),
    "whole number beyond floats": ([[1, 1, 20, 1, 10**400, 20]], "a coordinate that is no number"),
    "text": ("abc", "neither polygons nor run lengths"),
    "list of text": (["abc"], "neither polygons nor run lengths"),
    "no counts": ({"size": [HEIGHT, WIDTH]}, "run lengths that are neither numbers nor text"),
    "no size": ({"counts": RUNS["counts"]}, "run lengths without a size"),
    "size of three": ({**RUNS, "size": [40, 60, 1]}, "run lengths without a size"),
    "size swapped": ({**RUNS, "size": [WIDTH, HEIGHT]}, "run lengths with height and width swapped"),
    "size of another": ({**RUNS, "size": [400, 600]}, "run lengths of another size"),
    "size beyond all": ({**RUNS, "size": [10**30, 10**30]}, "run lengths of another size"),
    "plain, short": (shortened(-100), "run lengths shorter than the image"),
    "plain, long": (shortened(100), "run lengths longer than the image"),
    "packed, short": (shortened_text(-100), "run lengths shorter than the image"),
    "packed, long": (shortened_text(1), "run lengths longer than the image"),
    "no run": ({**RUNS, "counts": []}, "run lengths shorter than the image"),
    "no text": ({**RUNS, "counts": ""}, "packed run lengths that are damaged"),
    "below zero": ({**RUNS, "counts": [-100, HEIGHT * WIDTH + 100]}, "a run length below zero"),
    "half a pixel": ({**RUNS, "counts": [0.5, HEIGHT * WIDTH - 0.5]}, "a run length that is no number"),
    "NaN run": ({**RUNS, "counts": [float("nan"), 3]}, "a run length that is no number"),
    "huge run": ({**RUNS, "counts": [10**30, 3]}, "a run length that is no number"),
    "run that is a list": ({**RUNS, "counts": [[1, 2], 3]}, "a run length that is no number"),
    "cut short in a number": ({**RUNS, "counts": RUNS["counts"][:-1] + "P"}, "packed run lengths that are damaged"),
    "a number without end": ({**RUNS, "counts": "o" * 50 + "0"}, "packed run lengths that are damaged"),
    "other characters": ({**RUNS, "counts": RUNS["counts"] + "\u00e9"}, "packed run lengths that are damaged"),
    "spaces": ({**RUNS, "counts": " " + RUNS["counts"]}, "packed run lengths that are damaged"),
    "a wrapped total": ({**RUNS, "counts": "oooooo?" * 9}, "run lengths longer than the image"),
    "outside": ([[100, 100, 120, 100, 120, 120]], "no pixel of the photo"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_annotation_costs_itself_and_is_named(photos, case):
    segmentation, kind = BAD[case]
    began = time.perf_counter()
    tracemalloc.start()
    bad = annotation(segmentation, id=66, bbox=[1, 2, 3, 4])
    (photo,), report = read(photos, [bad, annotation()])
    (good,) = masks(photo, report)[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(good[0], square())
    assert [row[:3] for row in report.rows] == [("skipped", kind, "annotation 66 of p0.jpg")]
    assert time.perf_counter() - began < 2
    assert peak < 1 << 20


def test_what_outlines_nothing_is_counted_by_kind(photos):
    kinds = [{"bbox": [1, 2, 3, 4]}, {"bbox": [0, 0, 1, 1], "keypoints": [1, 2, 2]}, {}, {"segments_info": [{}]}]
    found, report = read(photos, [annotation(None, **kind) for kind in [*kinds, kinds[0]]])
    assert not found
    assert report.counts("skipped") == {
        "no outline: a box": 2,
        "no outline: key points": 1,
        "no outline": 1,
        "no outline: panoptic, whose masks are PNG files": 1,
    }


def test_entries_that_are_nothing(photos):
    images = [image(), 3, {"id": 1}, {"file_name": "p0.jpg"}, image(5, "a/001.jpg"), image(6, "x" * 5000)]
    (photo,), report = read(photos, [annotation(), None, [], {"segmentation": SQUARE}], images)
    assert len(photo.annotations) == 1
    assert report.counts("skipped") == {
        "an entry that is no annotation": 2,
        "an entry that is no image": 1,
        "an image without a file name": 1,
        "an image without an id": 1,
        "a file name that is too long": 1,
        "an annotation of no image of the file": 1,
        "a photo without annotations": 1,
    }
    for broken in ({"images": {}, "annotations": []}, {"images": [], "annotations": None}):
        with pytest.raises(AnnotationError, match=r"no COCO JSON"):
            list(read_coco(broken, photos, ReadingReport(), "x.json"))


def test_many_objects_take_memory_by_pixels(photos):
    size = 2000
    rng = np.random.default_rng(0)
    entries = []
    large = sorted(rng.permutation(800)[:254].tolist())
    for number in range(800):
        x, y = 60 * (number % 32) + 30 + rng.random(), 60 * (number // 32) + 30 + rng.random()
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        radius = 25 if number in large else 12
        ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
        entries.append(annotation([ring.ravel().tolist()], id=number))
    (photo,), report = read(photos, entries, [image(height=size, width=size)])
    tracemalloc.start()
    labels, objects = label_map.draw(photo, size, size, report)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * size * size  # NumPy counts values in 8 bytes each; all masks at once would be 800 times
    assert [one.name for _, one in objects] == [f"annotation {n}" for n in large]
    assert set(np.unique(labels)) == set(range(256))
    assert report.counts("skipped") == {label_map.TOO_MANY: 546}
    assert {name for _, _, name, _ in report.rows} == {
        f"annotation {n} of p0.jpg" for n in range(800) if n not in large
    }


@pytest.mark.parametrize("name", ["https://host/a%20b/p%200.jpg?sig=x/y.png#z", "a%20b/p%200.jpg", "a b/p 0.jpg"])
def test_addresses_of_the_web_lead_to_files(tmp_path, name):
    (tmp_path / "a b").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "a b" / "p 0.jpg")
    content = {
        "images": [{"id": 1, "file_name": name, "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
    }
    (found,) = read_coco(content, PhotoFinder(tmp_path), ReadingReport(), "x.json")
    assert found.photo.file == tmp_path / "a b" / "p 0.jpg"
    assert found.photo.identity == name
