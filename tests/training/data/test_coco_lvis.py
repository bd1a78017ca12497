"""The combined set: built of the original files, stopped and gone on with, and what is told."""

import json
import os
import zipfile

import numpy as np
import pytest

from icmformer.errors import ConfigError
from tests.training.data.coco_lvis_sets import box, build, objects_of, write_joined
from training.data.build_coco_lvis import main
from training.data.coco_lvis.originals import Instances, Panoptic
from training.data.coco_lvis.rules import Object, combine, packed
from training.data.coco_lvis.store import LayeredShards, read_about
from training.data.coco_lvis.writing import write_shard


@pytest.fixture(scope="session")
def fixtures(shared):
    return shared / "data" / "fixtures"


def test_the_real_files_are_built_and_read_back(fixtures, tmp_path, capsys):
    lvis, images = fixtures / "coco_lvis" / "lvis.json", fixtures / "coco_lvis" / "images"
    instances = fixtures / "coco_lvis" / "coco_instances.json"
    assert build(tmp_path / "set", "--lvis", lvis, "--instances", instances, "--images", images) == 0
    assert "26 photos" in capsys.readouterr().out
    source, stored = LayeredShards(tmp_path / "set"), objects_of(tmp_path / "set")
    ours, theirs = Instances(lvis), Instances(instances)
    assert len(source.records) == sum(bool(ours.masks(i)) for i in ours.images)
    for index, record in enumerate(source.records):
        expected = combine(ours.masks(int(record.key)), theirs.masks(int(record.key)), [])
        found = stored[record.key]
        assert [o.parent for o in found] == [o.parent for o in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.mask, other.mask)
        image, layers = source.load(index)
        assert layers.shape[:2] == image.shape[:2] == expected[0].mask.shape
        pairs = [[layers[..., layer] == value for layer, value in pair] for pair in record.parts]
        wanted = [(o.mask, expected[o.parent].mask) for o in expected if o.parent is not None]
        np.testing.assert_array_equal(np.array(pairs), np.array(wanted))
    assert any(record.parts for record in source.records)


def test_panoptic_files_give_things_and_stuff(fixtures, tmp_path):
    folder = fixtures / "panoptic" / "sample_data"
    options = ("--panoptic", folder / "panoptic_examples.json", "--panoptic-masks", folder / "panoptic_examples")
    assert build(tmp_path / "set", *options, "--images", folder / "input_images") == 0
    source = LayeredShards(tmp_path / "set")
    content = json.loads((folder / "panoptic_examples.json").read_text())
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    stored = objects_of(tmp_path / "set")
    for record in source.records:
        annotation = next(a for a in content["annotations"] if str(a["image_id"]) == record.key)
        segments = [s for s in annotation["segments_info"] if not s["iscrowd"]]
        areas = [s["area"] for s in segments if s["category_id"] in things and s["area"] >= 80]
        objects = stored[record.key]
        assert [int(o.mask.sum()) for o in objects if not o.stuff] == areas
        assert sum(o.stuff for o in objects) == sum(
            s["category_id"] not in things and s["area"] > 500 for s in segments
        )
        assert len(record.stuff) == sum(o.stuff for o in objects)
    with pytest.raises(ConfigError, match="not there or damaged"):
        Panoptic(folder / "panoptic_examples.json", tmp_path).masks(142238)


def test_a_stopped_build_goes_on_and_images_of_the_benchmark_are_left_out(fixtures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.data.build_coco_lvis._SHARD", 5)
    lvis, images = fixtures / "coco_lvis" / "lvis.json", fixtures / "coco_lvis" / "images"
    numbers = sorted(Instances(lvis).images)
    (tmp_path / "leave.txt").write_text(f"{numbers[0]}\n{numbers[7]}\n")
    options = ("--lvis", lvis, "--images", images, "--exclude", tmp_path / "leave.txt")
    assert build(tmp_path / "set", *options) == 0
    source = LayeredShards(tmp_path / "set")
    kept = {record.key for record in source.records}
    assert not kept & {str(numbers[0]), str(numbers[7])}
    whole = {p.name: p.read_bytes() for p in (tmp_path / "set").glob("shard-*.zip")}
    assert len(whole) == 5
    (tmp_path / "set" / "shard-00002.zip").unlink()
    untouched = os.stat(tmp_path / "set" / "shard-00001.zip").st_mtime_ns
    assert build(tmp_path / "set", *options) == 0
    assert os.stat(tmp_path / "set" / "shard-00001.zip").st_mtime_ns == untouched
    with zipfile.ZipFile(tmp_path / "set" / "shard-00002.zip") as archive:
        assert archive.testzip() is None
    assert {r.key for r in LayeredShards(tmp_path / "set").records} == kept
    capsys.readouterr()
    assert build(tmp_path / "set", "--lvis", lvis, "--images", images) == 2
    assert "other sources or images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((), "--out and --images are needed"),
        (("--images", "."), "give --lvis"),
        (("--images", "none"), "there is no folder"),
        (("--images", ".", "--panoptic", "x"), "go together"),
        (("--images", ".", "--lvis", "x", "--community", "y"), "or else --community"),
        (("--images", ".", "--lvis", "none.json"), "cannot read none.json"),
        (("--images", ".", "--community", "none"), "there is no none"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, options, text):
    out = ["--out", str(tmp_path / "set")] if options else []
    assert main([*options, *out, "--jobs", "1"]) == 2
    assert text in capsys.readouterr().err


def test_folders_that_are_no_set_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no set of layered shards"):
        read_about(tmp_path)
    (tmp_path / "set.json").write_text('{"format": "other"}')
    with pytest.raises(ConfigError, match="build it anew"):
        read_about(tmp_path)


def test_a_part_of_an_object_that_is_not_there_is_told(tmp_path):
    mask = box(0, 20, 0, 20)
    write_shard(tmp_path / "shard-00000.zip", [("a", "a.jpg", [Object(packed(mask), "lvis", parent=4)], mask.shape)])
    (tmp_path / "set.json").write_text('{"format": "icmformer-layers-1", "name": "mine", "images": "."}')
    with pytest.raises(ConfigError, match=r"the image a in .* a part of an object that is not there"):
        LayeredShards(tmp_path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_lvis_and_panoptic_are_joined_by_the_build(tmp_path, jobs):
    root = write_joined(tmp_path / "files")
    options = ["--lvis", root / "lvis.json", "--panoptic", root / "panoptic.json"]
    options += ["--panoptic-masks", root / "panoptic", "--images", root / "images", "--jobs", jobs]
    assert main(["--out", str(tmp_path / "set"), *map(str, options)]) == 0
    found = objects_of(tmp_path / "set")
    assert [r.key for r in LayeredShards(tmp_path / "set").records] == ["1", "2"]
    one, two = found["1"], found["2"]
    # by hand: the first thing matches the LVIS instance and goes, the second stays, stuff is cut by neither
    assert [(int(o.mask.sum()), o.stuff, o.parent) for o in one] == [
        (2500, False, None),
        (30 * 40, False, None),
        (1000, True, None),
    ]
    # by hand: the small one is a part of the large one; stuff loses what the instances cover
    assert [(int(o.mask.sum()), o.stuff, o.parent) for o in two] == [
        (1600, False, None),
        (225, False, 0),
        (70 * 120 - 10 * 40, True, None),
    ]


def test_images_that_are_not_there_are_told_before_anything_is_built(tmp_path, capsys):
    root = write_joined(tmp_path / "files")
    (root / "images" / "000000000002.jpg").unlink()
    assert build(tmp_path / "set", "--lvis", root / "lvis.json", "--images", root / "images") == 2
    assert "1 of 2 images are not in" in capsys.readouterr().err
    (tmp_path / "COCO_MVal").mkdir()
    (tmp_path / "COCO_MVal" / "000000000002_7.png").touch()
    options = ["--lvis", root / "lvis.json", "--images", root / "images", "--exclude", tmp_path / "COCO_MVal"]
    assert build(tmp_path / "set2", *options) == 0
    assert len(LayeredShards(tmp_path / "set2").records) == 1


def test_a_crash_in_the_middle_of_a_line_costs_one_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.build_coco_lvis._SHARD", 1)
    root = write_joined(tmp_path / "files")
    options = ["--lvis", root / "lvis.json", "--images", root / "images"]
    assert build(tmp_path / "set", *options) == 0
    rows = (tmp_path / "set" / "counts.jsonl").read_text()
    (tmp_path / "set" / "counts.jsonl").write_text(rows[:-9])
    (tmp_path / "set" / "plan.json").write_text('{"form')
    assert build(tmp_path / "set", *options) == 0
    assert json.loads((tmp_path / "set" / "set.json").read_text())["counts"]["photos"] == 2
