"""Photos are found by the paths that exports have for them."""

import base64
import hashlib
import io
import unicodedata

import numpy as np
import pytest
from PIL import Image

from training.finetuning.readers.annotations import AnnotationError, BadAnnotationError
from training.finetuning.readers.photo_finder import (
    BY_SIZE,
    NO_PHOTO,
    OTHER_FOLDER,
    SEVERAL_PHOTOS,
    PhotoFinder,
    data_address,
)
from training.finetuning.readers.reading_report import ReadingReport


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (
        ("a/001.jpg", (30, 20)),
        ("b/001.jpg", (40, 20)),
        ("b/c/001.jpg", (50, 20)),
        ("plain.PNG", (30, 20)),
        ("same.jpg", (30, 20)),
        ("same.png", (30, 20)),
        ("video/frame_000000.PNG", (30, 20)),
        (unicodedata.normalize("NFD", "Brücke.jpg"), (30, 20)),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path)
    (tmp_path / "a" / "001.txt").write_text("no photo")
    (tmp_path / "a" / "._001.jpg").write_bytes(b"\0\5\26\7")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/001.jpg", "a/001.jpg"),
        ("/data/x/a/001.jpg", "a/001.jpg"),
        ("../../somewhere/b/001.jpg", "b/001.jpg"),
        ("C:\\photos\\b\\c\\001.jpg", "b/c/001.jpg"),
        ("b\\001.JPG", "b/001.jpg"),
        ("./plain.png", "plain.PNG"),
        ("/data/same.jpg", "same.jpg"),
        ("same.png", "same.png"),
        ("frame_000000", "video/frame_000000.PNG"),
        (unicodedata.normalize("NFC", "Brücke.jpg"), unicodedata.normalize("NFD", "Brücke.jpg")),
        ("deep/" * 200 + "b/001.jpg", "b/001.jpg"),
    ],
)
def test_the_longest_tail_that_fits_is_the_photo(folder, name, file):
    assert PhotoFinder(folder).find(name) == folder / file


@pytest.mark.parametrize(
    "name", ["none.jpg", "", "..", "a/001.txt", "001", "._001.jpg", "x" * 300 + ".jpg", "a\0b.jpg", "\ud800.jpg"]
)
def test_what_is_not_there_is_not_found(folder, name):
    if name == "001":  # three photos have this stem
        with pytest.raises(BadAnnotationError) as caught:
            PhotoFinder(folder).find(name)
        assert caught.value.kind == SEVERAL_PHOTOS
        return
    with pytest.raises(BadAnnotationError) as caught:
        PhotoFinder(folder).find(name)
    assert caught.value.kind == NO_PHOTO


def test_of_photos_of_one_name_the_size_decides_or_nothing_does(folder):
    report = ReadingReport()
    finder = PhotoFinder(folder, report=report)
    with pytest.raises(BadAnnotationError, match=r"it may be a/001.jpg or b/001.jpg or b/c/001.jpg"):
        finder.find("001.jpg")
    assert not report.rows
    assert finder.find("001.jpg", (40, 20)) == folder / "b/001.jpg"
    assert finder.find("001.jpg", (20, 50)) == folder / "b/c/001.jpg"  # turned by EXIF
    assert report.counts("decided") == {BY_SIZE: 2}
    with pytest.raises(BadAnnotationError):
        finder.find("001.jpg", (99, 99))


def test_a_photo_in_another_folder_is_taken_only_where_it_can_be_no_other_and_is_told(folder):
    report = ReadingReport()
    finder = PhotoFinder(folder, report=report)
    with pytest.raises(BadAnnotationError, match="3 files of that name are in other folders") as caught:
        finder.find("elsewhere/001.jpg", (40, 20))  # not even by its size
    assert caught.value.kind == NO_PHOTO
    assert finder.find("/data/clips/frame_000000") == folder / "video/frame_000000.PNG"
    assert report.rows == [("decided", OTHER_FOLDER, "/data/clips/frame_000000", "video/frame_000000.PNG")]
    assert finder.find("/data/same.jpg") == folder / "same.jpg"  # at the top: a tail of the export's path
    assert len(report.rows) == 1


def test_many_photos_of_one_name_are_read_once_each(tmp_path, monkeypatch):
    for number in range(120):
        (tmp_path / f"f{number}").mkdir()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"f{number}" / "img.png", compress_level=0)
    opened = []
    digest = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda file, name: opened.append(file.name) or digest(file, name))
    finder = PhotoFinder(tmp_path)
    for _ in range(120):
        with pytest.raises(BadAnnotationError):
            finder.find("img.png")
    assert len(opened) <= 120


def test_copies_of_one_photo_are_one(folder):
    (folder / "z").mkdir()
    (folder / "z" / "plain.png").write_bytes((folder / "plain.PNG").read_bytes())
    assert PhotoFinder(folder).find("x/plain.png") in (folder / "plain.PNG", folder / "z" / "plain.png")


def test_a_photo_at_the_top_comes_before_one_deeper_of_the_same_name(folder):
    Image.new("RGB", (9, 9)).save(folder / "001.jpg")
    assert PhotoFinder(folder).find("001.jpg") == folder / "001.jpg"


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(AnnotationError, match="--images"):
        PhotoFinder(tmp_path / "none")


def test_data_addresses_hold_the_photo_itself():
    out = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(out, "PNG")
    text = base64.b64encode(out.getvalue()).decode()
    assert data_address(f"data:image/png;base64,{text}") == out.getvalue()
    assert data_address("data:,a%20b") == b"a b"
    assert data_address("http://x/data:") is None
    for damaged in ("data:image/png;base64", "data:image/png;base64,abc"):
        with pytest.raises(BadAnnotationError, match="data: address"):
            data_address(damaged)
