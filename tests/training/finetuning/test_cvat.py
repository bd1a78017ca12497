"""Exports of CVAT, made from cvat-sdk's structures, read back."""

import tracemalloc
import unicodedata
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from skimage import draw as drawing

from tests.training.finetuning import cvat_exports as cvat
from training.finetuning.readers.annotations import AnnotationError, BadAnnotationError
from training.finetuning.readers.cvat import is_cvat, parse_cvat, read_cvat
from training.finetuning.readers.label_map import draw
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

HEIGHT, WIDTH = 40, 60


def disc(row, column, radius=5):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[drawing.disk((row, column), radius, shape=mask.shape)] = True
    return mask


def ring():
    return disc(20, 30, 12) & ~disc(20, 30, 6)


def photo_file(folder, name, size=(WIDTH, HEIGHT), value=0):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path


def read(root, folder):
    """The photos, through the XML's text, and what the report says."""
    report = ReadingReport()
    parsed = parse_cvat(ElementTree.tostring(root), "annotations.xml")
    assert is_cvat(parsed)
    return list(read_cvat(parsed, PhotoFinder(folder), report, "annotations.xml")), report


def drawn(photo, report=None, height=HEIGHT, width=WIDTH):
    labels, objects = draw(photo, height, width, report or ReadingReport())
    return labels, {annotation.name: labels == value for value, annotation in objects}


def test_masks_of_the_sdk_read_back_to_the_pixel(tmp_path):
    masks = [ring(), disc(3, 3), disc(36, 57), np.pad([[True]], ((0, HEIGHT - 1), (WIDTH - 1, 0)))]
    root = cvat.export(("task", {"id": "3", "mode": "annotation", "assignee": {"username": "ada"}}))
    cvat.add_image(root, 0, "one.png", WIDTH, HEIGHT, [cvat.mask_shape(mask, source="semi-auto") for mask in masks])
    cvat.add_image(root, 1, "untouched.png", WIDTH, HEIGHT)
    file = photo_file(tmp_path, "images/one.png")
    (photo,), report = read(root, tmp_path)
    assert (photo.photo.identity, photo.photo.file, photo.photo.size) == ("one.png", file, (HEIGHT, WIDTH))
    assert (photo.photo.group, photo.photo.orientation) == ("", "upright")
    assert {(a.label, a.source, a.annotator) for a in photo.annotations} == {("nucleus", "semi-auto", "ada")}
    _, found = drawn(photo)
    assert list(found) == ["mask 1", "mask 2", "mask 3", "mask 4"]
    for mask, other in zip(masks, found.values(), strict=True):
        np.testing.assert_array_equal(other, mask)
    assert not report.rows


@pytest.mark.parametrize("rotation", [0, 30, 90, 135, 300])
def test_ellipses_turn_clockwise_about_their_middle(tmp_path, rotation):
    root = cvat.export(cvat.images())
    cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT, [cvat.ellipse_shape(31.3, 18.7, 15.2, 6.1, rotation=rotation)])
    photo_file(tmp_path, "a.png")
    (photo,), _ = read(root, tmp_path)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    turn = -np.radians(rotation if rotation <= 180 else rotation - 360)  # skimage turns counterclockwise
    expected[drawing.ellipse(18.7 - 0.5, 31.3 - 0.5, 6.1, 15.2, shape=expected.shape, rotation=turn)] = True
    np.testing.assert_array_equal(drawn(photo)[0] > 0, expected)


def test_what_outlines_nothing_is_skipped_by_kind_and_name(tmp_path):
    kinds = {
        "rectangle": [40, 10, 50, 20],
        "polyline": [1, 1, 9, 9],
        "points": [1, 1],
        "cuboid": list(range(16)),
        "skeleton": [],
    }
    shapes = [cvat.shape(kind, points, rotation=20.0) for kind, points in kinds.items()]
    root = cvat.export(cvat.images())
    image = cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT, [*shapes, cvat.mask_shape(ring())])
    ElementTree.SubElement(image.find("skeleton"), "points", label="eye", outside="0", occluded="0", points="1,1")
    ElementTree.SubElement(image.find("mask"), "attribute", name="stage").text = "late"
    ElementTree.SubElement(image, "tag", label="blurred", source="manual")
    only_box = cvat.add_image(root, 1, "gone.png", WIDTH, HEIGHT, shapes[:1])
    assert only_box.find("box").get("rotation") == "20.00"
    photo_file(tmp_path, "a.png")
    (photo,), report = read(root, tmp_path)
    assert [annotation.name for annotation in photo.annotations] == ["mask 1"]
    every = {"box": 2, "polyline": 1, "points": 1, "cuboid": 1, "skeleton": 1, "tag": 1}
    assert report.counts("skipped") == every
    assert ("skipped", "box", "box 1 of a.png", "it outlines nothing") in report.rows


def test_shapes_of_a_group_are_one_object(tmp_path):
    shapes = [
        cvat.shape("polygon", [10, 10, 30, 10, 30, 20, 10, 20], group=5),
        cvat.shape("polygon", [40, 10, 50, 10, 50, 20, 40, 20], group=5, label_id=2),
        cvat.ellipse_shape(20, 30, 6, 4),
        cvat.ellipse_shape(45, 30, 6, 4),
    ]
    root = cvat.export(cvat.images())
    cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT, shapes)
    photo_file(tmp_path, "a.png")
    (photo,), report = read(root, tmp_path)
    labels, found = drawn(photo)
    assert labels.max() == 3
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[10:20, 10:30] = expected[10:20, 40:50] = True
    np.testing.assert_array_equal(found["group 5 (polygon 1, polygon 2)"], expected)
    assert report.counts("decided") == {"a group of several labels": 1}  # read as an object of the first's


def test_higher_shapes_lie_over_lower_ones(tmp_path):
    shapes = [cvat.mask_shape(disc(20, 30, 4), z_order=2), cvat.mask_shape(disc(20, 30, 9), z_order=-1)]
    root = cvat.export(cvat.images())
    cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT, shapes)
    photo_file(tmp_path, "a.png")
    (photo,), _ = read(root, tmp_path)
    _, found = drawn(photo)
    np.testing.assert_array_equal(found["mask 1"], disc(20, 30, 4))
    np.testing.assert_array_equal(found["mask 2"], disc(20, 30, 9) & ~disc(20, 30, 4))


def test_projects_have_photos_of_equal_names_in_folders_of_subsets(tmp_path):
    root = cvat.export(cvat.images(1), cvat.images(2), project=True)
    for number, subset in enumerate(("train", "test", "default_1"), 1):
        masks = [cvat.mask_shape(disc(20, 10 * number))]
        cvat.add_image(root, 0, "x/a.png", WIDTH, HEIGHT, masks, subset=subset, task_id=str(number))
    files = [photo_file(tmp_path, f"images/{subset}/x/a.png", value=n) for n, subset in enumerate(("train", "test"))]
    photos, report = read(root, tmp_path)
    assert [photo.photo.identity for photo in photos[:2]] == ["train/x/a.png", "test/x/a.png"]
    assert [photo.photo.file for photo in photos[:2]] == files
    assert report.rows[0][:3] == ("skipped", "several photos of that name", "default_1/x/a.png")
    for number, photo in enumerate(photos, 1):
        np.testing.assert_array_equal(drawn(photo)[0] > 0, disc(20, 10 * number))


def test_equal_names_in_two_tasks_stay_apart(tmp_path):
    root = cvat.export(cvat.images(1), cvat.images(2), project=True)
    for number in "12":
        cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT, [cvat.mask_shape(ring())], task_id=number)
    files = [photo_file(tmp_path, f"task {number}/a.png", value=number) for number in (1, 2)]
    photos, _ = read(root, tmp_path)
    assert [(p.photo.identity, p.photo.file) for p in photos] == list(
        zip(["task 1/a.png", "task 2/a.png"], files, strict=True)
    )


def test_frames_of_a_video_are_found_and_are_a_group(tmp_path):
    """A video task as CVAT for images: names without an ending, files with `.PNG`."""
    root = cvat.export(cvat.video())
    for frame in (0, 12):
        cvat.add_image(root, frame, f"frame_{frame:06}", WIDTH, HEIGHT, [cvat.mask_shape(ring())])
    files = [photo_file(tmp_path, f"images/frame_{frame:06}.PNG", value=frame) for frame in (0, 12)]
    photos, _ = read(root, tmp_path)
    assert [photo.photo.file for photo in photos] == files
    assert {photo.photo.group for photo in photos} == {"video lorry.mp4"}


@pytest.mark.parametrize(
    ("entry", "name", "group"),
    [
        (("task", {"id": "4", "mode": "interpolation"}), "frame_000001", "task 4"),
        (
            ("job", {"id": "9", "mode": "interpolation", "created": "2026-01-02 03:04:05+00:00"}),
            "frame_000001",
            "task created 2026-01-02 03:04:05+00:00",
        ),
        (("task", {"id": "4", "mode": "annotation"}), "frame_000001.png", "task 4"),
        (("task", {"id": "4", "mode": "annotation"}), "left/frame_000001.png", "task 4, left"),
        (("task", {"id": "4", "mode": "annotation"}), "a.png", ""),
        (("task", {}), "frame_000001.png", "annotations.xml"),
    ],
)
def test_photos_are_a_group_where_they_are_frames(tmp_path, entry, name, group):
    root = cvat.export(entry)
    cvat.add_image(root, 0, name, WIDTH, HEIGHT, [cvat.mask_shape(ring())])
    photo_file(tmp_path, name if name.endswith("png") else f"{name}.png")
    (photo,), _ = read(root, tmp_path)
    assert photo.photo.group == group


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("scan\\left\\a.png", "scan/left/a.png"),
        ("/data/share/left/a.png", "left/a.png"),
        ("../../a.png", "a.png"),
        ("A.PNG", "a.png"),
        (unicodedata.normalize("NFD", "für.png"), unicodedata.normalize("NFC", "für.png")),
        (f"{'deep/' * 80}a.png", "a.png"),
    ],
)
def test_names_as_exports_have_them_are_found(tmp_path, name, file):
    root = cvat.export(cvat.images())
    cvat.add_image(root, 0, name, WIDTH, HEIGHT, [cvat.mask_shape(ring())])
    path = photo_file(tmp_path, file)
    (photo,), _ = read(root, tmp_path)
    assert (photo.photo.identity, photo.photo.file) == (name, path)


def test_a_photo_that_is_not_there_costs_itself(tmp_path):
    root = cvat.export(cvat.images())
    for name in ("gone.png", "", "here.png"):
        cvat.add_image(root, 0, name, WIDTH, HEIGHT, [cvat.mask_shape(ring())])
    photo_file(tmp_path, "here.png")
    (photo,), report = read(root, tmp_path)
    assert photo.photo.identity == "here.png"
    assert report.counts("skipped") == {"no such photo": 1, "a photo without a name": 1}


MASK = {"rle": "2, 4", "left": "0", "top": "0", "width": "3", "height": "2"}
ELLIPSE = {"cx": "20", "cy": "20", "rx": "5", "ry": "5"}
MANY = ";".join(["1,1"] * 400_000)


@pytest.mark.parametrize(
    ("tag", "attributes", "kind"),
    [
        ("mask", MASK | {"rle": "2, 3"}, "run lengths that do not fill their box"),
        ("mask", MASK | {"rle": "2, 5"}, "run lengths that do not fill their box"),
        ("mask", MASK | {"rle": "8, -2"}, "run lengths that do not fill their box"),
        ("mask", MASK | {"rle": "2.5, 3.5"}, "run lengths that do not fill their box"),
        ("mask", MASK | {"rle": "nan, 4"}, "run lengths that do not fill their box"),
        ("mask", MASK | {"rle": "1e308, 1e308"}, "run lengths that do not fill their box"),
        ("mask", MASK | {"rle": "1,0," * 1_000_000 + "5"}, "run lengths that do not fill their box"),
        ("mask", MASK | {"rle": ""}, "a coordinate that is no number"),
        ("mask", MASK | {"rle": "2; 4"}, "a coordinate that is no number"),
        ("mask", MASK | {"left": "58"}, "a box that leaves the photo"),
        ("mask", MASK | {"top": "-1"}, "a box that leaves the photo"),
        ("mask", MASK | {"width": "0"}, "a box that leaves the photo"),
        ("mask", MASK | {"width": "1000000", "height": "1000000"}, "a box that leaves the photo"),
        ("mask", MASK | {"height": "2.5"}, "a mask between pixels"),
        ("mask", MASK | {"height": "9" * 5000}, "a coordinate that is no number"),
        ("mask", MASK | {"width": str(10**30)}, "a coordinate far outside the photo"),
        ("mask", {"rle": "1"}, "an attribute that is not there"),
        ("polygon", {}, "an attribute that is not there"),
        ("polygon", {"points": ""}, "a polygon that is no list of points"),
        ("polygon", {"points": "1,1;2,2"}, "fewer than three points"),
        ("polygon", {"points": "1,1;2,2;3"}, "a polygon that is no list of points"),
        ("polygon", {"points": "1,1;2,2;3,x"}, "a coordinate that is no number"),
        ("polygon", {"points": "1,1;2,2;nan,3"}, "a coordinate that is no number"),
        ("polygon", {"points": "1,1;2,2;1e308,3"}, "a coordinate far outside the photo"),
        ("polygon", {"points": MANY}, "a polygon of too many points"),
        ("ellipse", ELLIPSE | {"rx": "inf"}, "a coordinate that is no number"),
        ("ellipse", ELLIPSE | {"ry": "0"}, "no extent"),
        ("ellipse", ELLIPSE | {"rotation": "left"}, "a coordinate that is no number"),
        ("ellipse", ELLIPSE | {"z_order": "top"}, "a z_order that is no number"),
        ("ellipse", ELLIPSE | {"z_order": "nan"}, "a z_order that is no number"),
        ("ellipse", ELLIPSE | {"cx": "500"}, "no pixel of the photo"),
    ],
)
def test_a_damaged_shape_costs_itself(tmp_path, tag, attributes, kind):
    root = cvat.export(cvat.images())
    image = cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT)
    ElementTree.SubElement(image, tag, {"label": "nucleus", **attributes})
    cvat.add_shape(image, cvat.mask_shape(ring()))
    photo_file(tmp_path, "a.png")
    (photo,), report = read(root, tmp_path)
    tracemalloc.start()
    labels, found = drawn(photo, report)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    np.testing.assert_array_equal(labels > 0, ring())
    assert len(found) == 1
    assert report.counts("skipped") == {kind: 1}
    assert report.rows[0][2] == f"{tag} 1 of a.png"


@pytest.mark.parametrize(
    ("size", "decided"), [({}, 0), ({"width": "nan", "height": "-3"}, 1), ({"width": "1e30", "height": "40"}, 1)]
)
def test_photos_without_a_size_have_their_own(tmp_path, size, decided):
    root = cvat.export(cvat.images())
    image = ElementTree.SubElement(root, "image", {"id": "0", "name": "a.png", **size})
    cvat.add_shape(image, cvat.mask_shape(ring()))
    photo_file(tmp_path, "a.png")
    (photo,), report = read(root, tmp_path)
    assert photo.photo.size is None
    assert sum(report.counts("decided").values()) == decided
    np.testing.assert_array_equal(drawn(photo)[0] > 0, ring())


def test_a_shape_is_checked_against_the_frame_it_is_drawn_on(tmp_path):
    """A camera's photo, stored 60 wide: CVAT shows it 40 wide; what goes beyond one frame fits the other."""
    upright = np.zeros((WIDTH, HEIGHT), bool)
    upright[55:58, 3:9] = True
    root = cvat.export(cvat.images())
    cvat.add_image(root, 0, "a.png", HEIGHT, WIDTH, [cvat.mask_shape(upright)])
    photo_file(tmp_path, "a.png")
    (photo,), _ = read(root, tmp_path)
    (shape,) = photo.annotations[0].shapes
    np.testing.assert_array_equal(shape.draw(WIDTH, HEIGHT), upright)
    with pytest.raises(BadAnnotationError, match="leaves the photo"):
        shape.draw(HEIGHT, WIDTH)


def test_the_last_change_is_told_in_utc(tmp_path):
    for text, expected in (
        ("2026-03-04 05:06:07.5+02:00", "2026-03-04T03:06:07.500000+00:00"),
        ("yesterday", ""),
        ("0001-01-01 00:00:00+14:00", ""),
    ):
        root = cvat.export(("task", {"id": "1", "updated": text}))
        cvat.add_image(root, 0, "a.png", WIDTH, HEIGHT, [cvat.mask_shape(ring())])
        photo_file(tmp_path, "a.png")
        (photo,), _ = read(root, tmp_path)
        assert photo.updated == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_xml_is_read_in_the_encoding_that_it_states(encoding):
    text = (
        f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?><annotations><image name="ü"/></annotations>'
    )
    (image,) = parse_cvat(text.encode(encoding), "x.xml")
    assert image.get("name") == "ü"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "cannot be read"),
        (b"<annotations>", "cannot be read"),
        (b'<?xml version="1.0" encoding="nonsense"?><annotations/>', "cannot be read"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "declares entities"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><annotations/>'.encode("utf-16"), "declares entities"),
    ],
)
def test_xml_that_is_refused(data, text):
    with pytest.raises(AnnotationError, match=rf"^x\.xml {text}"):
        parse_cvat(data, "x.xml")


def test_deeply_nested_elements_do_no_harm(tmp_path):
    depth = 100_000
    root = parse_cvat(b"<annotations>" + b"<image>" * depth + b"</image>" * depth + b"</annotations>", "x.xml")
    report = ReadingReport()
    assert not list(read_cvat(root, PhotoFinder(tmp_path), report, "x.xml"))
    assert report.counts("skipped") == {"a photo without a name": depth}
