"""Exports of CVAT, broken at random: what cannot be used costs itself, or a typed error refuses the export."""

import tracemalloc
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import draw as drawing

from tests.training.finetuning import cvat_exports as cvat
from tests.training.finetuning.test_cvat import HEIGHT, WIDTH, photo_file
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.cvat import parse_cvat, read_cvat
from training.finetuning.readers.label_map import draw
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

MOST_MEMORY = 200e6
NUMBERS = ("", " ", "nan", "-inf", "1e308", "1e-320", "-1", "0", "1", "2.5", "7", str(10**30), "9" * 5000)
TEXTS = ("\0", "\ud800", "../../../x", "/etc/passwd", "x" * 100_000, "frame_000000", "annotation")
LISTS = ("1," * 50_000, "1,1;" * 50_000, "1;2", "6, 1, 2")
values = st.one_of(
    st.sampled_from(NUMBERS + TEXTS + LISTS),
    st.text(max_size=20),
    st.floats().map(str),
    st.lists(st.integers(-2, 200), max_size=9).map(lambda numbers: str(numbers)[1:-1]),
)
changes = st.lists(
    st.tuples(
        st.sampled_from(["set", "remove", "drop", "text", "tag", "copy", "nest"]),
        st.integers(0, 99),
        st.integers(0, 9),
        values,
    ),
    min_size=1,
    max_size=12,
)


def valid():
    """Every kind of shape and both forms in one file."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[drawing.disk((20, 30), 12)] = True
    shapes = [
        cvat.mask_shape(mask, group=2),
        cvat.shape("polygon", [1, 1, 30, 2, 20, 33], group=2),
        cvat.ellipse_shape(30, 20, 9, 4, rotation=30.0, z_order=1),
        cvat.shape("rectangle", [1, 1, 5, 5]),
    ]
    root = cvat.export(cvat.video(1), cvat.video(2), project=True)
    cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT, shapes, subset="train", task_id="1")
    cvat.add_image(root, 1, "frame_000001", WIDTH, HEIGHT, shapes, subset="train", task_id="2")
    for number, drawn in enumerate(shapes):
        cvat.add_track(root, number, drawn, task_id="1", subset="train")
    return root


def break_(root, change):
    kind, place, key, value = change
    elements = list(root.iter())
    element = elements[place % len(elements)]
    if kind == "set":
        keys = sorted(element.attrib) or ["id"]
        element.set(keys[key % len(keys)], value)
    elif kind == "remove" and element.attrib:
        del element.attrib[sorted(element.attrib)[key % len(element.attrib)]]
    elif kind == "drop" and len(element):
        del element[key % len(element)]
    elif kind == "text":
        element.text = value
    elif kind == "tag" and element is not root:
        element.tag = ("image", "track", "mask", "polygon", "ellipse", "tag", "meta", "task", "job", "x")[key]
    elif kind == "copy" and element is not root:
        root.extend([element] * key)
    elif kind == "nest" and element is not root and len(elements) < 200:
        element.append(elements[(place + key) % len(elements)].makeelement("image", {"name": value}))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "images"
    for name in ("train/a.png", "train/frame_000000.PNG", "train/frame_000001.PNG"):
        photo_file(folder, name)
    return folder


def check(root, folder):
    """Reads and draws everything; all that may come out is checked."""
    before = sorted(folder.parent.rglob("*"))
    files = {path for path in before if path.is_file()}
    report = ReadingReport()
    tracemalloc.start()
    try:
        for photo in read_cvat(root, PhotoFinder(folder), report, "annotations.xml"):
            assert photo.photo.file in files
            size = photo.photo.size
            assert size is None or all(isinstance(side, int) and side > 0 for side in size)
            labels, objects = draw(photo, HEIGHT, WIDTH, report)
            assert labels.shape == (HEIGHT, WIDTH)
            assert {value for value, _ in objects} == set(np.unique(labels).tolist()) - {0, 255}
    except AnnotationError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    report.lines()
    report.write(folder.parent / "report.jsonl")
    (folder.parent / "report.jsonl").unlink()
    assert sorted(folder.parent.rglob("*")) == before


def broken_structure(photos, broken):
    root = valid()
    for change in broken:
        break_(root, change)
    check(root, photos)


def broken_text(photos, cuts):
    data = bytearray(ElementTree.tostring(valid()))
    for place, length, new in cuts:
        digits = [index for index, byte in enumerate(data) if byte in b"0123456789,;."]
        place = digits[place % len(digits)] if length < 3 else place % len(data)
        data[place : place + length] = new
    try:
        root = parse_cvat(bytes(data), "annotations.xml")
    except AnnotationError:
        return
    check(root, photos)


cuts = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 10_000),
            st.integers(0, 2),
            st.sampled_from([b"", b"-", b".", b",", b"e", b"nan", b"\xc3\xa9", b"&#x663;", b"9" * 50, b"0,", b"1;"]),
        ),
        st.tuples(
            st.integers(0, 10_000),
            st.integers(3, 40),
            st.one_of(st.binary(max_size=9), st.sampled_from([b"<image>", b'"', b"&lt;", b"<!DOCTYPE a>", b""])),
        ),
    ),
    min_size=1,
    max_size=6,
)
QUICK = settings(max_examples=40, deadline=10_000, derandomize=True)
LONG = settings(max_examples=2000, deadline=10_000)


def test_an_unbroken_export_is_read(photos):
    report = ReadingReport()
    found = list(read_cvat(valid(), PhotoFinder(photos), report, "annotations.xml"))
    assert [len(photo.annotations) for photo in found] == [2, 2, 2]
    assert report.counts("skipped") == {"box": 3}
    check(valid(), photos)


@QUICK
@given(broken=changes)
def test_broken_structures(photos, broken):
    broken_structure(photos, broken)


@QUICK
@given(cuts=cuts)
def test_broken_text(photos, cuts):
    broken_text(photos, cuts)


@pytest.mark.slow
@LONG
@given(broken=changes)
def test_many_broken_structures(photos, broken):
    broken_structure(photos, broken)


@pytest.mark.slow
@LONG
@given(cuts=cuts)
def test_many_broken_texts(photos, cuts):
    broken_text(photos, cuts)
