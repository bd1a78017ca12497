"""What an export is, whatever its files are called, stored in and packed into."""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.finetuning.small_exports import (
    coco,
    cvat,
    mask_folder,
    outlines,
    packed,
    photo,
    read,
    square,
    task,
)
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.reading_report import ReadingReport


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
