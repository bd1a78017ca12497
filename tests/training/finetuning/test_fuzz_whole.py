"""Broken exports of every format from the file or zip to the label maps: nothing outside the run's folder changes."""

import io
import json
import xml.etree.ElementTree as ElementTree
import zipfile
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from icmformer.errors import ConfigError
from tests.training.finetuning import test_fuzz_coco as coco
from tests.training.finetuning import test_fuzz_cvat as cvat
from tests.training.finetuning import test_fuzz_label_studio as studio
from tests.training.finetuning.test_cvat import HEIGHT, WIDTH
from training.finetuning.photos import prepare_photos
from training.finetuning.readers.detect import Export, read_annotations
from training.finetuning.readers.reading_report import ReadingReport

PHOTOS = {
    "coco": (("a.png", "sub/b.png"), (coco.HEIGHT, coco.WIDTH)),
    "cvat": (("images/train/a.png", "images/train/frame_000000.PNG", "images/train/frame_000001.PNG"), (HEIGHT, WIDTH)),
    "studio": (("a.png", "b.png", "c.png"), studio.SIZE),
}
MOST_SECONDS = 10
BROKEN_NAMES = [
    "../evil.png",
    "/evil.png",
    "..\\evil.json",
    "a\0b.png",
    "C:\\evil.png",
    "x" * 250 + ".png",
    "a.png/b.png",
]
BROKEN_NAMES += ["masks/a.png", ".hidden.json", "other.json", "é/ü.xml"]
OTHERS = [b"", b"{}", b"[]", b"<annotations/>", b"\x89PNG\r\n\x1a\n", b"[" * 100_000, b"\xff\xfe\x00", b"PK\x03\x04"]


def photo(size, form="PNG", seed=0):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(content, form)
    return content.getvalue()


def broken_cvat(changes):
    root = cvat.valid()
    for change in changes:
        cvat.break_(root, change)
    return ElementTree.tostring(root)


EXPORTS = {
    "coco": ("export.json", coco.CHANGES.map(lambda changes: json.dumps(coco.broken_content(changes)).encode())),
    "cvat": ("annotations.xml", cvat.changes.map(broken_cvat)),
    "studio": ("export.json", studio.broken().map(lambda content: json.dumps(content).encode())),
}
VALID = {
    "coco": lambda: json.dumps(coco.valid()).encode(),
    "cvat": lambda: ElementTree.tostring(cvat.valid()),
    "studio": lambda: json.dumps(studio.valid()).encode(),
}


PHOTO_CHANGES = st.none() | st.tuples(
    st.integers(0, 1), st.sampled_from(["cut", "bit", "small", "bmp", "other"]), st.integers(0)
)
BESIDE = st.dictionaries(st.sampled_from(BROKEN_NAMES), st.sampled_from(OTHERS), max_size=2)


def files_of(kind, export, change=None):
    """The files of an export by name: photos, of which one may be broken, and the annotations."""
    names, size = PHOTOS[kind]
    files = {name: photo(size, seed=place) for place, name in enumerate(names)}
    if change is not None:
        place, what, number = change
        whole = files[names[place]]
        cut = number % len(whole)
        files[names[place]] = {
            "cut": whole[:cut],
            "bit": whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :],
            "small": photo((7, 5)),
            "bmp": photo(size, "BMP"),
            "other": OTHERS[number % len(OTHERS)],
        }[what]
    return {**files, EXPORTS[kind][0]: export}


def written(folder, files, beside, damage):
    """Puts an export into a folder, as files and as a zip; gives both paths."""
    with zipfile.ZipFile(folder / "export.zip", "w") as archive:
        for name, content in {**files, **beside}.items():
            archive.writestr(name, content)
    data = bytearray((folder / "export.zip").read_bytes())
    for place, value in damage:
        data[place % len(data)] = value
    (folder / "export.zip").write_bytes(data)
    for name, content in files.items():
        (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / name).write_bytes(content)
    return next(folder / "files" / name for name in files if name.endswith((".json", ".xml"))), folder / "export.zip"


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def prepared_from(path, run):
    """What a run makes of an export; None where it is refused."""
    report = ReadingReport()
    try:
        with coco.limits(coco.MOST_BYTES, MOST_SECONDS):
            photos = read_annotations(Export(path), run / "unpacked", report)
            made = prepare_photos(photos, run / "all", report)
    except ConfigError:
        return None
    report.write(run / "reading.jsonl")
    report.lines()
    return made


def check(base, files, beside, damage):
    for place, path in enumerate(written(base / "export", files, beside, damage)):
        run = base / "runs" / str(place)
        before = contents(base)
        made = prepared_from(path, run)
        after = contents(base)
        assert {p: data for p, data in after.items() if run not in p.parents and p != run} == before
        assert {p.parent.relative_to(run).as_posix() for p in after if run in p.parents and p.is_file()} <= {
            *(".", "unpacked", "all/images", "all/masks")
        }
        for one in made or ():
            labels = np.asarray(Image.open(run / "all" / "masks" / f"{one.stem}.png"))
            pixels = np.asarray(Image.open(run / "all" / "images" / f"{one.stem}.png"))
            assert labels.shape == pixels.shape[:2] == (one.height, one.width)
            assert {fact.value for fact in one.objects} == set(np.unique(labels).tolist()) - {0, 255}


DAMAGE = st.just([]) | st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3)
FUZZ = {"deadline": timedelta(seconds=4 * MOST_SECONDS), "suppress_health_check": list(HealthCheck), "database": None}
KINDS = pytest.mark.parametrize("kind", sorted(EXPORTS))


@pytest.fixture
def base(tmp_path):
    """Makes a fresh folder for each example."""
    number = iter(range(10**6))

    def make():
        folder = tmp_path / str(next(number))
        for name in ("export", "runs"):
            (folder / name).mkdir(parents=True)
        return folder

    return make


@KINDS
def test_whole_exports_are_prepared_whole(kind, base):
    folder, files = base(), files_of(kind, VALID[kind]())
    check(folder, files, {}, [])
    for place, path in enumerate(written(folder / "export", files, {}, [])):
        assert len(prepared_from(path, folder / "again" / str(place))) == len(PHOTOS[kind][0])


@KINDS
def test_broken_exports_change_nothing_outside_the_run(kind, base):
    @settings(max_examples=25, derandomize=True, **FUZZ)
    @given(EXPORTS[kind][1], PHOTO_CHANGES, BESIDE, DAMAGE)
    def run(export, change, beside, damage):
        check(base(), files_of(kind, export, change), beside, damage)

    run()


@pytest.mark.slow
@KINDS
def test_many_broken_exports_change_nothing_outside_the_run(kind, base):
    @settings(max_examples=600, **FUZZ)
    @given(EXPORTS[kind][1], PHOTO_CHANGES, BESIDE, DAMAGE)
    def run(export, change, beside, damage):
        check(base(), files_of(kind, export, change), beside, damage)

    run()
