"""What an export is, whatever its files are called, stored in and packed into."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmformer.images.reading import LoadedImage
from training.finetuning.photos import prepare_photos
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.detect import Export, read_annotations
from training.finetuning.readers.reading_report import ReadingReport

SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]


def photo(path, size=(40, 50), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)


def coco(*names, size=(40, 50)):
    images = [{"id": n, "file_name": name, "height": size[0], "width": size[1]} for n, name in enumerate(names)]
    annotations = [{"id": n, "image_id": n, "segmentation": SQUARE, "category_id": 1} for n in range(len(names))]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}


def task(name, number=1):
    value = {"points": [[20, 25], [40, 25], [40, 50], [20, 50]], "polygonlabels": ["thing"]}
    region = {"id": "r", "type": "polygonlabels", "to_name": "image", "original_width": 50, "original_height": 40}
    return {"id": number, "data": {"image": name}, "annotations": [{"id": 1, "result": [{**region, "value": value}]}]}


def cvat(*names):
    shape = '<polygon label="thing" points="10,10;20,10;20,20;10,20" z_order="0"/>'
    images = "".join(
        f'<image id="{n}" name="{name}" width="50" height="40">{shape}</image>' for n, name in enumerate(names)
    )
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{images}</annotations>'


def read(path, tmp_path, report=None, **options):
    report = ReadingReport() if report is None else report
    return read_annotations(Export(path, **options), tmp_path / "unpacked", report)


def outlines(photos, tmp_path):
    report = ReadingReport()
    shutil.rmtree(tmp_path / "prepared", ignore_errors=True)
    prepared = prepare_photos(photos, tmp_path / "prepared", report)
    masks = {
        p.identity: np.asarray(Image.open(tmp_path / "prepared" / "masks" / f"{p.stem}.png")) > 0 for p in prepared
    }
    return masks, report


def square():
    mask = np.zeros((40, 50), bool)
    mask[10:20, 10:20] = True
    return mask


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        *((encoding, "") for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")),
        *((encoding, mark) for encoding in ("utf-16-le", "utf-16-be") for mark in ("", "\ufeff")),
        *((encoding, "") for encoding in ("utf-32-le", "utf-32-be")),
    ],
)
@pytest.mark.parametrize("form", ["coco", "studio", "cvat"])
def test_byte_order_marks_and_wide_encodings_are_read(tmp_path, form, encoding, mark):
    photo(tmp_path / "büro.png")
    text = {
        "coco": json.dumps(coco("büro.png"), ensure_ascii=False),
        "studio": json.dumps([task("büro.png")], ensure_ascii=False),
        "cvat": cvat("büro.png"),
    }[form]
    path = tmp_path / f"export.{'xml' if form == 'cvat' else 'json'}"
    path.write_bytes((mark + text).encode(encoding))
    masks, _ = outlines(read(path, tmp_path), tmp_path)
    (mask,) = masks.values()
    np.testing.assert_array_equal(mask, square())


def packed(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for entry in sorted(folder.rglob("*")):
            archive.write(entry, entry.relative_to(folder).as_posix())
    return path


def test_several_files_of_one_kind_in_a_zip_are_read_together(tmp_path):
    """CVAT's subsets: equal names in two folders, one JSON file each."""
    for number, subset in enumerate(("Train", "Validation")):
        photo(tmp_path / "in" / "images" / subset / "001.png", (40, 50 + number), number)
        (tmp_path / "in" / "annotations").mkdir(exist_ok=True)
        content = coco(f"{subset}/001.png", size=(40, 50 + number))
        (tmp_path / "in" / "annotations" / f"instances_{subset}.json").write_text(json.dumps(content))
    (tmp_path / "in" / "notes.json").write_text('{"made": "by us"}')
    report = ReadingReport()
    photos = read(packed(tmp_path / "in", tmp_path / "e.zip"), tmp_path, report)
    masks, _ = outlines(photos, tmp_path)
    assert set(masks) == {"Train/001.png", "Validation/001.png"}
    assert [mask.shape for mask in masks.values()] == [(40, 50), (40, 51)]
    assert report.counts("skipped") == {"a file that is no export": 1}


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


def test_files_of_a_target_storage_are_tasks(tmp_path):
    for number in (1, 2):
        photo(tmp_path / "in" / f"{number}.png", seed=number)
        whole = task(f"/data/upload/1/{number}.png", number)
        annotation = {"id": number, "task": {"id": number, "data": whole["data"]}, **whole["annotations"][0]}
        (tmp_path / "in" / f"{number}").write_text(json.dumps(annotation))  # written without an ending
    masks, _ = outlines(read(tmp_path / "in", tmp_path), tmp_path)
    assert len(masks) == 2
    for mask in masks.values():
        np.testing.assert_array_equal(mask, square())


def test_of_several_kinds_one_is_named(tmp_path):
    photo(tmp_path / "in" / "p.png")
    (tmp_path / "in" / "a.json").write_text(json.dumps(coco("p.png")))
    (tmp_path / "in" / "b.xml").write_text(cvat("p.png"))
    archive = packed(tmp_path / "in", tmp_path / "e.zip")
    for path in (archive, tmp_path / "in"):
        with pytest.raises(AnnotationError, match=r"a.json \(COCO\), b.xml \(CVAT\); name one with --file"):
            read(path, tmp_path)
        for name in ("a.json", "b.xml"):
            masks, _ = outlines(read(path, tmp_path, file=name), tmp_path)
            np.testing.assert_array_equal(masks["p.png"], square())
        with pytest.raises(AnnotationError, match=r"0 files of .* are called c\.json"):
            read(path, tmp_path, file="c.json")


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


def moved(task, percent, updated):
    """A task whose outline lies elsewhere, changed at a time."""
    (annotation,) = task["annotations"]
    for region in annotation["result"]:
        region["value"]["points"] = [[x + percent, y] for x, y in region["value"]["points"]]
    return {**task, "annotations": [{**annotation, "updated_at": updated}]}


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


def mask_folder(folder):
    labels = np.zeros((40, 50), np.uint8)
    labels[10:20, 10:20], labels[25:30, 5:40] = 1, 2
    for name in ("a/001", "b/001", "c"):
        photo(folder / "images" / f"{name}.png", seed=len(name))
        (folder / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
    return labels


def test_a_folder_of_masks_as_people_have_it(tmp_path):
    folder = tmp_path / "team"
    labels = mask_folder(folder)
    photo(folder / "images" / "moving.gif")
    Image.fromarray(labels).save(folder / "masks" / "moving.png")
    photo(folder / "images" / "twin.jpg")
    photo(folder / "images" / "twin.png")
    Image.fromarray(labels).save(folder / "masks" / "twin.jpg.png")
    photo(folder / "images" / "suffixed.png")
    Image.fromarray(labels).save(folder / "masks" / "suffixed_mask.png")
    photo(folder / "images" / "damaged.png")
    (folder / "masks" / "damaged.png").write_bytes(b"\x89PNG\r\n")
    photo(folder / "images" / "sized.png", (41, 50))
    Image.fromarray(labels).save(folder / "masks" / "sized.png")
    Image.fromarray(labels).save(folder / "masks" / "lone.png")
    for kind in ("images", "masks"):
        (folder / kind / "._c.png").write_bytes(b"\0\5\26\7")
        (folder / kind / "Thumbs.db").write_bytes(b"\0")
    (folder / "images" / "notes.txt").write_text("ours")
    for path in (folder, packed(tmp_path / "team", tmp_path / "e.zip")):
        report = ReadingReport()
        photos = read(path, tmp_path, report)
        masks, drawn = outlines(photos, tmp_path)
        assert set(masks) == {"a/001.png", "b/001.png", "c.png", "moving.gif", "twin.jpg", "suffixed.png"}
        for mask in masks.values():
            np.testing.assert_array_equal(mask, labels > 0)
        assert report.counts("skipped") == {
            "hidden file": 4,
            "no image file": 1,
            "no mask": 1,
            "a mask that cannot be used": 1,
            "a mask without a photo": 1,
        }
        assert drawn.counts("skipped") == {"another size than the photo's": 1}


def test_a_mended_mask_is_read_anew(tmp_path):
    labels = mask_folder(tmp_path / "in")
    before, _ = outlines(read(tmp_path / "in", tmp_path), tmp_path)
    Image.fromarray(labels * (labels == 2)).save(tmp_path / "in" / "masks" / "c.png")
    after, _ = outlines(read(tmp_path / "in", tmp_path), tmp_path)
    np.testing.assert_array_equal(before["c.png"], labels > 0)
    np.testing.assert_array_equal(after["c.png"], labels == 2)


def test_a_zip_with_one_top_folder_and_what_a_mac_adds(tmp_path):
    mask_folder(tmp_path / "in" / "team")
    (tmp_path / "in" / "__MACOSX" / "team").mkdir(parents=True)
    (tmp_path / "in" / "__MACOSX" / "team" / "._x.json").write_bytes(b"\0\5")
    assert len(read(packed(tmp_path / "in", tmp_path / "e.zip"), tmp_path)) == 3


def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path):
    for name in ("../outside.json", "/outside.json", "a/../../outside.json", "..\\outside.json"):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr(name, "[]")
        with pytest.raises(AnnotationError, match="lies outside"):
            read(tmp_path / "bad.zip", tmp_path)
    assert not list(tmp_path.rglob("outside.json"))


def test_damaged_zips_are_told(tmp_path):
    mask_folder(tmp_path / "in")
    path = packed(tmp_path / "in", tmp_path / "e.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = next(i.header_offset for i in archive.infolist() if i.filename.endswith("masks/c.png")) + 60
    data[place : place + 30] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match="cannot be unpacked"):
        read(path, tmp_path)


def test_what_is_damaged_is_not_called_unknown(tmp_path):
    mask_folder(tmp_path / "in")
    path = packed(tmp_path / "in", tmp_path / "e.zip")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(AnnotationError, match="a zip that is damaged or cut short"):
        read(path, tmp_path)
    (tmp_path / "cut").mkdir()
    for name, text in (("annotations.xml", cvat("p.png")), ("result.json", json.dumps(coco("p.png")))):
        (tmp_path / "cut" / name).write_text(text[:-20])
    with pytest.raises(AnnotationError, match=r"(?s)annotations.xml cannot be read.*result.json cannot be read"):
        read(tmp_path / "cut", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.json", "{", "cannot be read"),
        ("x.json", "[3]", "no export that is known"),
        ("x.json", "[" * 100_000, "cannot be read"),
        ("x.json", '{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ("x.xml", "<annotations>", "cannot be read"),
        ("x.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
        ("x.xml", "<annotation/>", "no export that is known"),
        ("x.txt", "what", "no export that is known"),
        ("x.json", "", "is empty"),
        ("x.json", "[]", "no export that is known"),
        ("x.json", json.dumps(coco("none.png")), "no such photo"),
        ("x.json", json.dumps([task("gone.png")]), "no such photo"),
        ("x.xml", cvat("gone.png"), "no such photo"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, name, content, text):
    photo(tmp_path / "p.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=text):
        read(tmp_path / name, tmp_path)


def test_utf_16_cannot_smuggle_entities_in(tmp_path):
    (tmp_path / "x.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', encoding="utf-16")
    with pytest.raises(AnnotationError, match="declares entities"):
        read(tmp_path / "x.xml", tmp_path)


def test_bytes_that_are_no_text_are_told(tmp_path):
    (tmp_path / "x.json").write_bytes(bytes(range(128, 256)))
    with pytest.raises(AnnotationError, match="cannot be read as a text"):
        read(tmp_path / "x.json", tmp_path)


def test_nothing_is_there(tmp_path):
    with pytest.raises(AnnotationError, match=re.escape(f"there is no {tmp_path / 'none'}")):
        read(tmp_path / "none", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="holds no JSON and no XML"):
        read(tmp_path / "empty", tmp_path)
    photo(tmp_path / "p.png")
    (tmp_path / "x.json").write_text(json.dumps(coco("p.png")))
    with pytest.raises(AnnotationError, match="--images"):
        read(tmp_path / "x.json", tmp_path, images=Path("none-such"))
    assert os.listdir(tmp_path / "empty") == []
