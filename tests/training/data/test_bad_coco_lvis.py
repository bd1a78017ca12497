"""What is bad in the files of COCO+LVIS is skipped, counted and named; memory goes by pixels."""

import json
import tracemalloc

import cv2
import numpy as np
import pytest

from tests.training.data.coco_lvis_sets import box, objects_of, write_joined
from training.data.build_coco_lvis import main
from training.data.coco_lvis.rules import combine
from training.data.coco_lvis.store import LayeredShards
from training.data.coco_lvis.writing import write_shard

BAD = [
    ({"segmentation": []}, "no outline"),
    ({}, "no outline"),
    ({"segmentation": [[1, 1, 5, 5]]}, "fewer than three points"),
    ({"segmentation": [[1, 1, float("nan"), 5, 9, 9]]}, "a coordinate that is no number"),
    ({"segmentation": [[1, 1, 1e308, 5, 9, 9]]}, "a coordinate far outside the photo"),
    ({"segmentation": {"size": [100, 120], "counts": [5, 20]}}, "run lengths shorter than the image"),
    ({"segmentation": {"size": [120, 100], "counts": [0, 12000]}}, "run lengths with height and width swapped"),
    ({"segmentation": [[500, 500, 510, 500, 510, 510]]}, "no pixel of the image"),
]


def change(path, **lists):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **{key: [*content[key], *more] for key, more in lists.items()}}))


def build(root, out, *options):
    options = ["--lvis", root / "lvis.json", "--images", root / "images", *options, "--out", out]
    return main(list(map(str, options)))


def told(out):
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    counts = json.loads((out / "set.json").read_text())["counts"]
    return rows, {key: value for key, value in counts.items() if key.startswith("skipped")}


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_annotations_are_skipped_counted_and_named(tmp_path, capsys, jobs):
    root = write_joined(tmp_path / "files")
    assert build(root, tmp_path / "clean") == 0
    assert told(tmp_path / "clean") == ([], {})
    bad = [{"id": 70 + n, "image_id": "1" if n % 2 else 1, **more} for n, (more, _) in enumerate(BAD)]
    strays = [{"id": 90, "image_id": 55, "segmentation": [[0, 0, 20, 0, 20, 20]]}, {"id": 91}, 3]
    change(root / "lvis.json", annotations=[*bad, *strays], images=[{"id": 3, "file_name": "x.jpg"}])
    capsys.readouterr()
    assert build(root, tmp_path / "set", "--jobs", jobs) == 0
    out = capsys.readouterr().out
    rows, counts = told(tmp_path / "set")
    named = {row["name"]: row["kind"] for row in rows}
    for entry, (_, kind) in zip(bad, BAD, strict=True):
        assert named[f"annotation {entry['id']} of image 1 of lvis.json"] == kind
    assert named["annotation 90 of lvis.json"] == named["annotation 91 of lvis.json"]
    assert counts == {
        "skipped: no outline": 2,
        **{f"skipped: {kind}": 1 for _, kind in BAD[2:]},
        "skipped: an annotation of no image of the file": 2,
        "skipped: an entry that is no annotation": 1,
        "skipped: an image without id, name or size": 1,
    }
    assert "2 skipped: no outline" in out
    assert "skipped: fewer than three points: annotation 72 of image 1 of lvis.json" in out
    clean, found = objects_of(tmp_path / "clean"), objects_of(tmp_path / "set")
    assert clean.keys() == found.keys()
    for key, objects in clean.items():  # the good ones are what they are without the bad ones
        assert [(o.packed, o.parent, o.stuff) for o in found[key]] == [(o.packed, o.parent, o.stuff) for o in objects]


def test_a_build_that_goes_on_tells_what_it_skipped_before(tmp_path, capsys):
    root = write_joined(tmp_path / "files")
    change(root / "lvis.json", annotations=[{"id": 70, "image_id": 1}])
    assert build(root, tmp_path / "set") == 0
    once = told(tmp_path / "set")
    (tmp_path / "set" / "skipped.jsonl").unlink()
    capsys.readouterr()
    assert build(root, tmp_path / "set") == 0
    assert told(tmp_path / "set") == once
    assert "no outline: annotation 70 of image 1" in capsys.readouterr().out


def test_bad_panoptic_segments_are_skipped_and_named(tmp_path):
    root = write_joined(tmp_path / "files")
    path = root / "panoptic.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"] += [{"id": 9, "category_id": 1}, {"category_id": 1}, None]
    content["annotations"].append({"image_id": 77})
    path.write_text(json.dumps(content))
    cv2.imwrite(str(root / "panoptic" / "000000000002.png"), np.zeros((50, 60, 3), np.uint8))
    options = ("--panoptic", path, "--panoptic-masks", root / "panoptic")
    assert build(root, tmp_path / "set", *options) == 0
    rows, counts = told(tmp_path / "set")
    assert counts == {
        "skipped: an entry that is no panoptic annotation of an image": 1,
        "skipped: no pixel of the image": 1,
        "skipped: a panoptic segment without id or category": 2,
        "skipped: a panoptic file of another size": 1,
    }
    assert {
        "kind": "a panoptic file of another size",
        "name": "000000000002.png",
        "told": "50 x 60, not 100 x 120",
    } in rows
    found = objects_of(tmp_path / "set")
    assert len(found["1"]) == 3
    assert [int(o.mask.sum()) for o in found["2"]] == [1600, 225]  # LVIS's alone


def test_files_that_disagree_on_an_images_size(tmp_path):
    root = write_joined(tmp_path / "files")
    content = json.loads((root / "lvis.json").read_text())
    for entry in content["images"]:
        entry["height"] = 50
    (root / "instances.json").write_text(json.dumps(content))
    assert build(root, tmp_path / "set", "--instances", root / "instances.json") == 0
    rows, counts = told(tmp_path / "set")
    assert counts == {"skipped: an image of another size in one of the files": 2}
    assert rows[0]["name"] == "image 1 of instances.json"


def test_memory_goes_by_pixels_not_by_objects(tmp_path):
    size = (1000, 1000)
    rng = np.random.default_rng(0)

    def masks():
        for top, left in rng.integers(0, 960, (300, 2)):
            yield box(top, top + 40, left, left + 40, size)

    tracemalloc.start()
    objects = combine(masks(), [], [box(0, 1000, 0, 1000, size)])
    write_shard(tmp_path / "shard-00000.zip", [("a", "a.jpg", objects, size)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 1000 * 1000  # the masks alone would be 300 times
    stored = objects_of(tmp_path)["a"]
    assert [o.packed for o in stored] == [o.packed for o in objects]
    assert len(stored) > 250


@pytest.mark.parametrize(
    "size", [(10**200, 10), (1e300, 10), (10, 10**200), (10**5, 10**5), (70_000, 1), (20_000, 20_000), (-5, 10)]
)
def test_images_of_no_size_that_a_photo_has_are_skipped_and_named(tmp_path, size):
    root = write_joined(tmp_path / "files")
    entry = {"id": 3, "file_name": "x.jpg", "height": size[0], "width": size[1]}
    change(root / "lvis.json", images=[entry], annotations=[{"image_id": 3, "segmentation": [[0, 0, 9, 0, 9, 9]]}])
    (root / "images" / "x.jpg").write_bytes((root / "images" / "000000000001.jpg").read_bytes())
    tracemalloc.start()
    assert build(root, tmp_path / "set") == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows, _ = told(tmp_path / "set")
    kind = "an image without id, name or size" if size[0] < 0 else "an image too large to be one"
    assert (rows[0]["kind"], rows[0]["name"]) == (kind, "number 3 of lvis.json")
    assert rows[0]["told"].startswith("x.jpg")
    assert rows[1]["kind"] == "an annotation of no image of the file"
    assert objects_of(tmp_path / "set").keys() == {"1", "2"}
    assert peak < 20 << 20


@pytest.mark.parametrize("what", ["[" * 100_000, '{"images": [], "annotations": [' + "[" * 5000 + "]" * 5000 + "]}"])
def test_json_nested_too_deep_is_told(tmp_path, capsys, what):
    root = write_joined(tmp_path / "files")
    (root / "lvis.json").write_text(what)
    assert build(root, tmp_path / "set") == 2
    assert "error: cannot read" in capsys.readouterr().err


DAMAGE = {
    "cut short": (lambda data: data[: len(data) // 2], "a panoptic file that cannot be read"),
    "changed": (lambda data: data[:60] + bytes(20) + data[80:], "a panoptic file that cannot be read"),
    "no picture": (lambda data: b"what", "a panoptic file that cannot be read"),
    "empty": (lambda data: b"", "a panoptic file that cannot be read"),
    "gone": (None, "a panoptic file that is not there"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_damaged_panoptic_file_costs_its_images_panoptic_part(tmp_path, damage, jobs):
    root = write_joined(tmp_path / "files")
    file, (change_it, kind) = root / "panoptic" / "000000000002.png", DAMAGE[damage]
    data = file.read_bytes()
    file.unlink()
    if change_it:
        file.write_bytes(change_it(data))
    options = ("--panoptic", root / "panoptic.json", "--panoptic-masks", root / "panoptic", "--jobs", jobs)
    assert build(root, tmp_path / "set", *options) == 0
    rows, counts = told(tmp_path / "set")
    assert counts == {f"skipped: {kind}": 1}
    assert rows[0]["name"] == "000000000002.png"
    found = objects_of(tmp_path / "set")
    assert [int(o.mask.sum()) for o in found["1"]] == [2500, 30 * 40, 1000]
    assert [int(o.mask.sum()) for o in found["2"]] == [1600, 225]  # LVIS's alone


def test_panoptic_files_of_which_none_is_there_end_the_build(tmp_path, capsys):
    root = write_joined(tmp_path / "files")
    for folder in (tmp_path / "none", root / "images"):
        options = ("--panoptic", root / "panoptic.json", "--panoptic-masks", folder)
        assert build(root, tmp_path / "set", *options) == 2
        assert f"not there or damaged: none of 2 is in {folder}" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["\0", "a\nb", "\ud800", "x" * 300, -1, 10**30, True, 1.5, [1]])
def test_images_go_by_numbers_or_words(tmp_path, wrong):
    """As in COCO exports for fine-tuning: 1, 1.0 and "1" are one."""
    root = write_joined(tmp_path / "files")
    path = root / "lvis.json"
    content = json.loads(path.read_text())
    content["images"][0]["id"], content["images"][1]["id"] = "1", "second"
    content["images"].append({**content["images"][0], "id": wrong, "file_name": "\ud800.jpg"})
    for entry in content["annotations"]:
        entry["image_id"] = {1: 1.0, 2: "second"}[entry["image_id"]]
    path.write_text(json.dumps(content))
    assert build(root, tmp_path / "set") == 0
    found = objects_of(tmp_path / "set")
    assert {key: [int(o.mask.sum()) for o in objects] for key, objects in found.items()} == {
        "1": [2500],
        "second": [1600, 225],
    }
    rows, _ = told(tmp_path / "set")
    assert [row["name"] for row in rows] == ["number 3 of lvis.json"]
    assert [record.key for record in LayeredShards(tmp_path / "set").records] == ["1", "second"]
