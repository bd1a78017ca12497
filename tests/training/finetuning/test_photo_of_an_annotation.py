"""Which photo an annotation is on: no photo gets another's mask."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from icmformer.images.reading import LoadedImage
from tests.training.finetuning.small_exports import (
    coco,
    cvat,
    moved,
    outlines,
    packed,
    photo,
    read,
    square,
    task,
)
from training.finetuning.photos import prepare_photos
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.detect import Export, read_annotations
from training.finetuning.readers.reading_report import ReadingReport


@pytest.mark.parametrize("form", ["cvat", "coco"])
@pytest.mark.parametrize("zipped", [False, True])
def test_exports_side_by_side_have_their_own_photos(tmp_path, form, zipped):
    """Two tasks, or a data set's parts, each with photos of the same names; some are missing."""
    for number, part in enumerate(("a", "b")):
        for name in ("0.png", "1.png") if part == "a" else ("0.png",):
            photo(tmp_path / "in" / part / "images" / name, (40, 50), 10 * number + int(name[0]))
        text = cvat("0.png", "1.png") if form == "cvat" else json.dumps(coco("0.png", "1.png"))
        (tmp_path / "in" / part / f"annotations.{'xml' if form == 'cvat' else 'json'}").write_text(text)
    path = packed(tmp_path / "in", tmp_path / "e.zip") if zipped else tmp_path / "in"
    report = ReadingReport()
    photos = read(path, tmp_path, report)
    found = sorted(p.photo.file.read_bytes() for p in photos)
    assert found == sorted(p.read_bytes() for p in (tmp_path / "in").rglob("*.png"))
    assert report.counts("skipped") == {"no such photo": 1}
    assert not report.counts("decided")


def test_another_part_of_a_data_set_has_other_photos(tmp_path):
    photo(tmp_path / "train" / "0.png")
    (tmp_path / "test.json").write_text(json.dumps(coco("test/0.png")))
    with pytest.raises(AnnotationError, match=r"no such photo: test/0.png \(train/0.png is another part's\)"):
        read(tmp_path / "test.json", tmp_path)


def test_names_over_255_bytes_in_a_zip(tmp_path):
    photo(tmp_path / "p.png")
    name = "n" * 300 + ".png"
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.write(tmp_path / "p.png", f"images/{name}")
        archive.writestr("export.json", json.dumps(coco(f"images\\{name}")))
    masks, _ = outlines(read(tmp_path / "e.zip", tmp_path), tmp_path)
    np.testing.assert_array_equal(masks[f"images\\{name}"], square())


def test_absolute_names_and_names_that_lead_out_write_nothing_outside(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    outside = tmp_path / "outside"
    outside.mkdir()
    names = [f"{outside}/p0.png", "../../outside/p1.png", f"{data}/sub/p2.png", "C:\\outside\\p3.png"]
    for number in range(4):
        photo(data / "sub" / f"p{number}.png", seed=number)
    (data / "export.json").write_text(json.dumps(coco(*names)))
    before = {p for p in tmp_path.rglob("*") if run not in p.parents}
    report = ReadingReport()
    photos = read_annotations(Export(data / "export.json"), run / "unpacked", report)
    prepared = prepare_photos(photos, run / "all", report)
    assert [p.identity for p in prepared] == names
    assert {p for p in tmp_path.rglob("*") if run not in p.parents} - {run} == before
    written = {p.name for p in (run / "all").rglob("*.png")}
    assert written == {f"{n:06}.png" for n in range(1, 5)}


def test_photos_of_one_stem_are_two(tmp_path):
    photo(tmp_path / "a.png", seed=1)
    photo(tmp_path / "a.jpg", seed=2)
    (tmp_path / "export.json").write_text(json.dumps(coco("a.png", "a.jpg")))
    masks, _ = outlines(read(tmp_path / "export.json", tmp_path), tmp_path)
    assert set(masks) == {"a.png", "a.jpg"}


def test_a_photo_in_two_tasks_is_used_once_by_the_latest_annotation_and_told(tmp_path):
    photo(tmp_path / "a.png")
    tasks = [moved(task("a.png", 1), 0, "2026-02-01T00:00:00Z"), moved(task("a.png", 2), 40, "2026-01-01T00:00:00Z")]
    for order in (tasks, tasks[::-1]):
        (tmp_path / "export.json").write_text(json.dumps(order))
        report = ReadingReport()
        photos = read(tmp_path / "export.json", tmp_path, report)
        masks, _ = outlines(photos, tmp_path)
        np.testing.assert_array_equal(masks["a.png"], square())
        assert report.counts("decided") == {"photo annotated several times": 1}
        assert "(task 1, 2026-02-01" in report.lines()[0]


def test_where_nothing_of_the_latest_can_be_drawn_another_session_is_used(tmp_path):
    photo(tmp_path / "a.png")
    content = coco("a.png", "a.png")
    content["annotations"][1]["segmentation"] = [[float("nan"), 1, 2, 2, 3, 3]]
    (tmp_path / "export.json").write_text(json.dumps(content))
    masks, report = outlines(read(tmp_path / "export.json", tmp_path), tmp_path)
    np.testing.assert_array_equal(masks["a.png"], square())
    assert report.counts("skipped") == {"a coordinate that is no number": 1}
    assert report.counts("decided") == {"another session, since nothing of the first can be drawn": 1}


@pytest.mark.parametrize("zipped", [False, True])
def test_another_photos_mask_is_never_used(tmp_path, zipped):
    """The export names two photos of one name, of which one is there: in its folder, or at the top."""

    def read_of(folder, *names):
        (tmp_path / folder / "export.json").write_text(json.dumps(coco(*names)))
        path = tmp_path / folder
        report = ReadingReport()
        return read(packed(path, tmp_path / f"{folder}.zip") if zipped else path, tmp_path, report), report

    photo(tmp_path / "in" / "train" / "a.png")
    photos, report = read_of("in", "train/a.png", "test/a.png")
    assert [p.photo.identity for p in photos] == ["train/a.png"]
    assert report.counts("skipped") == {"no such photo": 1}
    photo(tmp_path / "flat" / "001.png")
    photo(tmp_path / "flat" / "002.png", seed=2)
    photos, report = read_of("flat", "a/001.png", "b/001.png", "a/002.png")
    assert [p.photo.identity for p in photos] == ["a/002.png"]
    assert report.counts("skipped") == {"several photos of that name": 2}


def test_one_photo_by_two_addresses_is_one(tmp_path):
    photo(tmp_path / "in" / "a" / "img.png")
    folders = ["/data/local-files/?d=a/img.png", "/data/local-files/?d=a%2Fimg.png"]
    tasks = [moved(task(f, n), 0, f"2026-01-0{n}T00:00:00Z") for n, f in enumerate(folders, 1)]
    (tmp_path / "in" / "export.json").write_text(json.dumps(tasks))
    report = ReadingReport()
    (used,) = read(tmp_path / "in", tmp_path, report)
    assert used.photo.group == "task 2"
    uploads = [task("/data/upload/1/aaaaaaaa-img.png", 1), task("/data/upload/1/bbbbbbbb-img.png", 2)]
    (tmp_path / "in" / "export.json").write_text(json.dumps(uploads))  # two files of that name were uploaded
    with pytest.raises(AnnotationError, match="several photos of that name"):
        read(tmp_path / "in", tmp_path)


def test_a_name_twice_in_a_zip_mixes_no_photos(tmp_path):
    for number, name in enumerate(("first", "second", "b")):
        photo(tmp_path / f"{name}.png", seed=number)
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.write(tmp_path / "first.png", "a.png")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.write(tmp_path / "second.png", "a.png")
        archive.write(tmp_path / "b.png", "b.png")
        archive.writestr("export.json", json.dumps(coco("a.png", "b.png")))
    report = ReadingReport()
    photos = read(tmp_path / "e.zip", tmp_path, report)
    for item, name in zip(photos, ("second", "b"), strict=True):
        assert item.photo.file.read_bytes() == (tmp_path / f"{name}.png").read_bytes()
    assert report.counts("skipped") == {"a name that comes again in the zip": 1}


def test_the_runs_own_photos_are_not_the_exports(tmp_path):
    """Six digits are what prepared photos are called too."""
    photo(tmp_path / "photos" / "000001.png", seed=1)
    photo(tmp_path / "run" / "data" / "train" / "images" / "000001.png", seed=2)
    (tmp_path / "ann.json").write_text(json.dumps(coco("images/000001.png")))
    (used,) = read_annotations(Export(tmp_path / "ann.json"), tmp_path / "u", ReadingReport(), tmp_path / "run")
    assert used.photo.file == tmp_path / "photos" / "000001.png"


@pytest.mark.parametrize(("form", "shown_by"), [("cvat", "cvat"), ("studio", "label studio"), ("coco", "plain")])
def test_pixels_are_those_that_the_tools_annotators_see(tmp_path, form, shown_by):
    values = np.full((40, 50), 100, np.uint16)
    values[:, 25:], values[0, 0] = 900, 65535  # a hot pixel
    Image.fromarray(values).save(tmp_path / "p.png")
    text = {"coco": json.dumps(coco("p.png")), "studio": json.dumps([task("p.png")]), "cvat": cvat("p.png")}[form]
    path = tmp_path / f"export.{'xml' if form == 'cvat' else 'json'}"
    path.write_text(text)
    outlines(read(path, tmp_path), tmp_path)
    prepared = np.asarray(Image.open(tmp_path / "prepared" / "images" / "000001.png"))
    expected = LoadedImage.from_bytes((tmp_path / "p.png").read_bytes(), shown_by=shown_by).pixels
    np.testing.assert_array_equal(prepared, expected)
    assert (np.ptp(prepared) > 0 and prepared[5, 40, 0] - int(prepared[5, 5, 0]) > 50) == (form == "cvat")
