"""Boxes of a COCO file into masks: against pycocotools, and against the engine asked directly."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from skimage import data

from icmformer.boxes.journal import Journal
from icmformer.boxes.orientation import orientation, stored_mask, upright_box
from icmformer.cli.main import main
from icmformer.errors import ConfigError
from icmformer.types import Box
from tests.conftest import ROOT, TRAINED

CAT, CUP = [120, 20, 210, 270], [100, 80, 390, 270]
OPTIONS = ("--weights", TRAINED, "--device", "cpu", "--profile", "fast")


def annotation(identity, image, box, **more):
    return {"id": identity, "image_id": image, "category_id": 1, "bbox": box, "note": f"é {identity}", **more}


@pytest.fixture
def folder(tmp_path):
    """Two photos and a file with boxes, in a folder."""
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def write(folder, annotations, images=None):
    images = images or [
        {"id": 1, "file_name": "chelsea.png", "width": 451, "height": 300, "licence": 3},
        {"id": 2, "file_name": "sub/coffee.png", "width": 600, "height": 400},
    ]
    content = {
        "info": {"year": 2026},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "in.json").write_text(json.dumps(content))
    return content


def command(folder, *more):
    paths = ("--images", folder / "photos", "-o", folder / "out.json")
    return ["boxes", "coco", *map(str, (folder / "in.json", *paths, *OPTIONS, *more))]


def run(folder, *more):
    return main(command(folder, *more))


def result(folder):
    return json.loads((folder / "out.json").read_text())


def test_boxes_get_the_engines_masks_and_all_else_is_kept(folder, fast, capsys):
    polygon = [[10.5, 10, 60, 10, 60, 50.25]]
    rle = {"size": [300, 451], "counts": [0, 10, 451 * 300 - 10]}
    given = [
        annotation(5, 1, CAT),
        annotation(6, 1, [5, 5, 60, 50], segmentation=polygon, area=1234.5),
        annotation(7, 2, CUP, segmentation=[], score=0.25, area=1),
        annotation(8, 2, CUP, iscrowd=1),
        annotation(9, 1, [0, 0, 10, 10], segmentation=rle, iscrowd=1),
        {"id": 10, "image_id": 1, "category_id": 1, "keypoints": [1, 2, 2]},
    ]
    before = write(folder, given)
    assert run(folder, "--threshold", "0") == 0
    assert "2 boxes: 2 masks written, 0 under the threshold, 0 failed" in capsys.readouterr().out
    after = result(folder)
    read = COCO(str(folder / "out.json"))
    for place, image, box in ((0, data.chelsea(), CAT), (2, data.coffee(), CUP)):
        expected = fast.segment(image, box=(box[0], box[1], box[0] + box[2], box[1] + box[3]))
        found = after["annotations"][place]
        np.testing.assert_array_equal(read.annToMask(read.anns[found["id"]]), expected.mask)
        assert isinstance(found["segmentation"]["counts"], str)
        assert found["area"] == expected.mask.sum()
        assert found["model_version"] == f"icmformer starter {fast.weights.sha256[:8]} fast"
        assert found["mask_score" if "score" in given[place] else "score"] == round(expected.score, 4)
        made = ("segmentation", "area", "model_version", "mask_score", *(() if "score" in given[place] else ("score",)))
        assert {k: v for k, v in found.items() if k not in made} == {
            k: v for k, v in given[place].items() if k not in made
        }
        after["annotations"][place] = given[place]
    assert after == before


def test_a_low_score_leaves_the_box_as_it_was_and_a_bad_box_or_image_costs_itself(folder, capsys):
    images = [
        {"id": 1, "file_name": "chelsea.png", "width": 451, "height": 300},
        {"id": 2, "file_name": "coffee.png", "width": 60, "height": 40},
        {"id": 3, "file_name": "none.png", "width": 9, "height": 9},
        {"id": 4, "file_name": "text.png"},
    ]
    (folder / "photos" / "text.png").write_text("no image")
    given = [
        annotation(1, 1, [0, 0, 3, 0]),
        annotation(2, 1, [500, 500, 3, 3]),
        annotation(3, 1, ["a", 0, 3, 3]),
        annotation(4, 1, [1, 2, 3]),
        annotation(5, 1, [0, 0, float("nan"), 3]),
        annotation(6, 1, CAT),
        annotation(7, 2, CUP),
        annotation(8, 3, CUP),
        annotation(9, 4, CUP),
        annotation(10, 77, CUP),
        annotation(11, 1, [3, 3, -2, 5]),
    ]
    before = write(folder, given, images)
    assert run(folder, "--threshold", "1") == 1
    told = capsys.readouterr()
    assert "11 boxes: 0 masks written, 1 under the threshold, 10 failed (bad prompt 6, unusable image 4)" in told.out
    for text in ("annotation 1: ", "there is no none.png", "has 600 x 400 pixels", "no entry in images has this id"):
        assert text in told.err
    assert json.dumps(result(folder)) == json.dumps(before)  # NaN is not equal to itself
    Image.new("RGB", (9, 9)).save(folder / "photos" / "none.png")  # mended: only what may have changed is tried again
    assert run(folder, "--threshold", "1") == 1
    out = capsys.readouterr().out
    assert "11 boxes: 0 masks written, 1 under the threshold, 10 failed (bad prompt 7, unusable image 3)" in out


def test_a_finished_run_does_nothing_and_another_one_is_refused(folder, capsys):
    write(folder, [annotation(1, 1, CAT), annotation(2, 2, CUP)])
    assert run(folder, "--limit", "1") == 0
    assert sum("segmentation" in each for each in result(folder)["annotations"]) == 1
    assert run(folder) == 0
    assert "2 masks written" in capsys.readouterr().out
    kept = (folder / "out.json").stat(), (folder / "out.json.journal").read_bytes()
    assert run(folder, "--device", "cuda:77") == 0  # no engine is made
    assert "2 masks written" in capsys.readouterr().out
    now = (folder / "out.json").stat(), (folder / "out.json.journal").read_bytes()
    assert (now[0].st_ino, now[0].st_mtime_ns, now[1]) == (kept[0].st_ino, kept[0].st_mtime_ns, kept[1])
    assert run(folder, "--threshold", "0.2") == 2
    assert "another threshold" in capsys.readouterr().err
    write(folder, [annotation(1, 1, CAT)])
    assert run(folder) == 2
    assert "another file" in capsys.readouterr().err
    (folder / "out.json.journal").unlink()
    assert run(folder) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(folder, number):
    boxes = [annotation(n, 1 + n // 8, [60 * (n % 4), 50 * (n % 8 // 4), 150, 150]) for n in range(24)]
    write(folder, boxes, [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(("chelsea", "coffee") * 2, 1)])
    assert run(folder, "--threshold", "0") == 0
    whole, lines = (folder / "out.json").read_bytes(), (folder / "out.json.journal").read_bytes().splitlines()
    (folder / "out.json").unlink()
    journal = folder / "out.json.journal"
    journal.unlink()
    words = [sys.executable, "-m", "icmformer", *command(folder, "--threshold", "0")]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
        deadline = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):  # the first of its units is noted
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(child.pid, number)
        told = child.stderr.read()
    assert child.returncode == (-9 if number == signal.SIGKILL else 130)
    assert number == signal.SIGKILL or "stopped; run the same command to go on" in told.splitlines()[-1]
    assert "Traceback" not in told
    assert not (folder / "out.json").exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "ha')  # as when the kill came within a line
    noted = journal.read_bytes().splitlines()[:-1]
    assert noted == lines[: len(noted)]
    assert len(noted) < len(lines)
    assert run(folder, "--threshold", "0") == 0
    assert (folder / "out.json").read_bytes() == whole
    assert journal.read_bytes().splitlines() == lines  # what was noted before was not made again, nothing twice


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_box_and_its_mask_turn_as_pillow_turns_the_image(tag):
    stored = np.zeros((7, 11), np.uint8)
    stored[1:4, 2:9] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = tag
    upright = np.asarray(ImageOps.exif_transpose(image)) > 0
    box = upright_box(Box(2, 1, 9, 4), tag, 7, 11)
    rows, columns = np.nonzero(upright)
    assert (box.x1, box.y1, box.x2, box.y2) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_array_equal(stored_mask(upright, tag), stored > 0)


@pytest.mark.parametrize(("said", "frame"), [((451, 300), None), ((300, 451), None), (None, "stored")])
def test_boxes_are_on_the_image_that_has_the_size_that_is_said(folder, fast, said, frame):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "photos" / "turned.jpg"
    stored = Image.fromarray(data.chelsea()).transpose(Image.Transpose.ROTATE_90)
    stored.save(path, exif=exif, quality=95)
    assert orientation(path.read_bytes()) == 6
    x, y, width, height = CAT
    on_stored = [y, 451 - x - width, height, width]  # turned by 90 degrees against the clock
    is_stored = frame == "stored" or said == (300, 451)
    size = {"width": said[0], "height": said[1]} if said else {}
    images = [{"id": 1, "file_name": "turned.jpg", **size}]
    write(folder, [annotation(1, 1, on_stored if is_stored else CAT)], images)
    assert run(folder, *(["--orientation", frame] if frame else [])) == 0
    with Image.open(path) as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    expected = fast.segment(upright, box=(x, y, x + width, y + height)).mask
    expected = np.rot90(expected) if is_stored else expected
    read = COCO(str(folder / "out.json"))
    (found,) = read.dataset["annotations"]
    assert found["segmentation"]["size"] == [*expected.shape]
    from pycocotools import mask as coco_mask

    np.testing.assert_array_equal(coco_mask.decode(found["segmentation"]), expected)


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [], "annotations": [3]}', '{"images": []}'])
def test_what_is_no_coco_file_is_said_in_a_line(folder, capsys, text):
    (folder / "in.json").write_text(text)
    assert run(folder) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (folder / "out.json").exists()


def test_a_journal_is_one_process_and_of_this_command_alone(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, {"a": 1}) as first:
        first.note("x", {"masks": 1, "under": 0, "failed": {}}, [1])
        with pytest.raises(ConfigError, match="in use"):
            Journal(path, {"a": 1})
    with pytest.raises(ConfigError, match="another a"):
        Journal(path, {"a": 2})
    for text in (b"a letter", b"a letter\n", b"{}\n", b'{"journal": "x"}\n'):
        path.write_bytes(text)
        with pytest.raises(ConfigError, match="not a journal"):
            Journal(path, {"a": 1})
        assert path.read_bytes() == text


def test_what_a_tool_needs_is_named_where_it_is_missing(folder, capsys, monkeypatch):
    write(folder, [annotation(1, 1, CAT)])
    for name in [name for name in sys.modules if name.startswith(("pycocotools", "icmformer.boxes.coco"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocotools", None)  # importing it fails
    assert run(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pycocotools" in line
    assert "'.[coco]'" in line
