"""From annotations to numbered photos and label maps: orientation, sizes, names, memory, choice."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageOps

from training.data.folders import Folder
from training.finetuning.photos import prepare_photos
from training.finetuning.readers.annotations import AnnotatedPhoto, Annotation, BadAnnotationError, Photo
from training.finetuning.readers.choice import ANNOTATED_AGAIN, choose
from training.finetuning.readers.label_map import TOO_MANY
from training.finetuning.readers.reading_report import ReadingReport
from training.finetuning.readers.shapes import Ellipse, Polygon


def rectangle(left, top, right, bottom, name="object", **facts):
    return Annotation(name, [Polygon([left, top, right, top, right, bottom, left, bottom])], **facts)


def stored(tmp_path, orientation, size=(30, 50)):
    """A photo with a white rectangle at rows 4 to 10, columns 6 to 21 of what is stored."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[4:10, 6:21] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"o{orientation}.png"
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def white(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("L")) > 127


def prepared(tmp_path, *items, **options):
    report = ReadingReport()
    photos = prepare_photos(items, tmp_path / "out", report, **options)
    return photos, report, [Folder(tmp_path / "out").load(i) for i in range(len(photos))] if photos else []


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("told", ["by the size", "by the rule", "without a size"])
def test_a_turned_photo_and_its_mask_stay_together(tmp_path, orientation, frame, told):
    """Annotations of either frame come out over the same pixels of the upright photo."""
    path = stored(tmp_path, orientation)
    truth = white(path)
    if frame == "stored":
        size, shape = (30, 50), rectangle(6, 4, 21, 10)
    else:
        size = truth.shape
        (top, left), (bottom, right) = np.argwhere(truth).min(0), np.argwhere(truth).max(0) + 1
        shape = rectangle(left, top, right, bottom)
    by_size = told == "by the size" and orientation in (5, 6, 7, 8)
    rule = {"stored": "upright", "upright": "stored"}[frame] if by_size else frame  # the size wins over the rule
    item = AnnotatedPhoto(Photo("p", path, None if told == "without a size" else size, orientation=rule), [shape])
    _, report, [(pixels, labels)] = prepared(tmp_path, item)
    np.testing.assert_array_equal(pixels[..., 0] > 127, truth)
    np.testing.assert_array_equal(labels, truth)
    assert ("photo with an EXIF orientation" in report.counts("decided")) == (orientation != 1)


def test_the_users_word_on_orientation_comes_before_the_tools(tmp_path):
    path = stored(tmp_path, 3)
    item = AnnotatedPhoto(Photo("p", path, (30, 50), orientation="upright"), [rectangle(6, 4, 21, 10)])
    _, report, [(_, labels)] = prepared(tmp_path, item, orientation="stored")
    np.testing.assert_array_equal(labels, white(path))
    assert report.lines() == [
        "decided: 1 x photo with an EXIF orientation: p (3; annotations are read as stored, by the rule)"
    ]


def test_bad_photos_and_annotations_cost_themselves(tmp_path):
    good = stored(tmp_path, 1)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:70])
    (tmp_path / "no.png").write_text("no image")
    items = [
        AnnotatedPhoto(Photo("cut", tmp_path / "cut.png"), [rectangle(1, 1, 9, 9)]),
        AnnotatedPhoto(Photo("none", tmp_path / "no.png"), [rectangle(1, 1, 9, 9)]),
        AnnotatedPhoto(Photo("gone", tmp_path / "gone.png"), [rectangle(1, 1, 9, 9)]),
        AnnotatedPhoto(Photo("small", good, (29, 50)), [rectangle(1, 1, 9, 9)]),
        AnnotatedPhoto(Photo("empty", good), []),
        AnnotatedPhoto(
            Photo("/etc/../good\0.png", good),
            [
                rectangle(1, 1, 9, 9, "fine", label="cat", source="manual", annotator="ann"),
                Annotation("line", [Polygon([1, 1, 2, 2])]),
                rectangle(1, 1, float("nan"), 9, "nan"),
                rectangle(1, 1, 1e300, 9, "huge"),
                rectangle(60, 1, 90, 9, "outside"),
                Annotation("flat", [Ellipse((5, 5), (0, 5))]),
                Annotation("text", [Polygon(["a", "b", "c", "d", "e", "f"])]),
                Annotation("odd", [Polygon([1, 2, 3, 4, 5, 6, 7])]),
            ],
        ),
    ]
    photos, report, [(_, labels)] = prepared(tmp_path, *items)
    assert [p.identity for p in photos] == ["/etc/../good\0.png"]
    (facts,) = photos[0].objects
    assert (facts.value, facts.label, facts.source, facts.annotator) == (1, "cat", "manual", "ann")
    assert labels.sum() == 64
    assert report.counts("skipped") == {
        "a photo that cannot be read": 3,
        "a coordinate that is no number": 2,
        "another size than the photo's": 1,
        "a photo on which nothing is outlined": 1,
        "fewer than three points": 1,
        "a coordinate far outside the photo": 1,
        "no pixel of the photo": 1,
        "no extent": 1,
        "a polygon that is no list of points": 1,
    }
    told = "\n".join(report.lines())
    assert "the photo has 50 x 30 pixels, its annotations 50 x 29" in told
    assert "nan of /etc/../good\\x00.png" in told
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["000001.png", "000001.png"]
    report.write(tmp_path / "report.jsonl")
    assert len((tmp_path / "report.jsonl").read_text().splitlines()) == 1 + len(report.rows)


def test_a_photo_may_be_bytes(tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(out, "JPEG")
    photos, _, [(pixels, labels)] = prepared(
        tmp_path, AnnotatedPhoto(Photo("data:", out.getvalue()), [rectangle(1, 1, 5, 5)])
    )
    assert (photos[0].height, photos[0].width) == (7, 9)
    assert pixels.shape == (7, 9, 3)
    assert labels.sum() == 16


def test_memory_goes_by_pixels_and_what_is_dropped_is_told(tmp_path):
    """800 objects as large as a photo of 0.16 megapixels would be 128 MB at a byte a pixel."""
    Image.new("RGB", (400, 400)).save(tmp_path / "p.png")
    ellipses = [Annotation(f"e{n}", [Ellipse((200, 200), (290 - n / 3, 290 - n / 3))]) for n in range(800)]
    report = ReadingReport()
    tracemalloc.start()
    try:
        (photo,) = prepare_photos([AnnotatedPhoto(Photo("p", tmp_path / "p.png"), ellipses)], tmp_path / "o", report)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6
    assert report.counts("skipped")[TOO_MANY] == 800 - 254
    assert "e799 of p" in {name for _, kind, name, _ in report.rows if kind == TOO_MANY}
    covered = report.counts("skipped")["covered by other objects"]
    assert 15 < covered < 60  # the largest are all as large as the photo
    assert len(photo.objects) == 254 - covered


@pytest.mark.parametrize("by_size", [True, False])
def test_smaller_or_later_objects_lie_on_top(tmp_path, by_size):
    Image.new("RGB", (40, 30)).save(tmp_path / "p.png")
    small, large = rectangle(12, 12, 18, 18), rectangle(10, 10, 30, 25)
    crowd = rectangle(0, 0, 20, 20, ignored=True)
    item = AnnotatedPhoto(Photo("p", tmp_path / "p.png"), [small, large, crowd], by_size=by_size)
    _, report, loaded = prepared(tmp_path, item)
    labels = loaded[0][1]
    assert labels[11, 11] == labels[24, 29]
    assert labels[5, 5] == 255
    assert (labels[15, 15] != labels[11, 11]) == by_size
    assert report.counts("skipped") == ({} if by_size else {"covered by other objects": 1})


def test_the_union_of_shapes_is_one_object(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "p.png")
    parts = [rectangle(1, 1, 5, 5).shapes[0], rectangle(10, 1, 15, 5).shapes[0]]
    photos, _, [(_, labels)] = prepared(
        tmp_path, AnnotatedPhoto(Photo("p", tmp_path / "p.png"), [Annotation("a", parts)])
    )
    assert labels.sum() == 16 + 20
    assert len(photos[0].objects) == 1


def test_ellipses_hold_the_pixels_whose_middles_they_hold():
    for degrees in (0, 30, 90, 137, -45):
        mask = Ellipse((20.3, 15.1), (12, 5), degrees).draw(30, 40)
        turn = np.deg2rad(degrees)
        angles = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
        x, y = 12 * np.cos(angles), 5 * np.sin(angles)
        ring = np.stack([20.3 + x * np.cos(turn) - y * np.sin(turn), 15.1 + x * np.sin(turn) + y * np.cos(turn)], 1)
        assert (Polygon(ring.ravel()).draw(30, 40) != mask).sum() <= 1
    with pytest.raises(BadAnnotationError):
        Ellipse((float("inf"), 1), (2, 2)).draw(9, 9)
    assert not Ellipse((-50, -50), (3, 3)).draw(9, 9).any()


def test_of_several_sessions_one_is_used_by_the_documented_rule(tmp_path):
    one, other = rectangle(1, 1, 5, 5), rectangle(2, 2, 9, 9)

    def session(group, annotations, **facts):
        return AnnotatedPhoto(Photo("p", tmp_path / "p.png", group=group), annotations, **facts)

    cases = [
        ([session("task 1", [one]), session("task 2", [other])], "task 2"),
        ([session("task 1", [one], updated="2026-02-01"), session("task 2", [other], updated="2026-01-01")], "task 1"),
        ([session("task 1", [one], ground_truth=True), session("task 2", [other], updated="2026-01-01")], "task 1"),
        ([session("task 1", [one]), session("task 2", [], ground_truth=True)], "task 1"),
    ]
    for sessions, expected in cases:
        report = ReadingReport()
        (used,) = choose(sessions, report)
        assert used.photo.group == expected
        assert report.counts("decided") == {ANNOTATED_AGAIN: 1}
    elsewhere = AnnotatedPhoto(Photo("q", tmp_path / "q.png"), [one])
    assert len(choose([*cases[0][0], elsewhere], ReadingReport())) == 2
