"""The combined set: rules against hand-worked cases and a slow way to the same, both forms, and what is not run."""

import json
import os
import pickle
import zipfile

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from skimage import draw

from icmformer.errors import ConfigError
from training.data.build_coco_lvis import main
from training.data.coco_lvis.community import Community, read_pickle
from training.data.coco_lvis.originals import Instances, Panoptic
from training.data.coco_lvis.rules import Object, Shape, combine, packed, parents
from training.data.coco_lvis.store import LayeredShards, read_about
from training.data.coco_lvis.writing import pack, write_shard
from training.data.objects import any_object, pick_object, without_stuff
from training.data.sources import open_images
from training.loop.config import parse_config
from training.loop.samples import SampleSet


def box(top, bottom, left, right, size=(100, 120)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_duplicates_of_lvis_go_and_near_ones_stay():
    first = box(10, 50, 10, 50)  # 1600
    same = box(10, 50, 10, 47)  # 1480 of 1600: IoU 0.925
    near = box(10, 50, 10, 43)  # 1320 of 1600: IoU 0.825, not over 0.85
    assert [o.mask.sum() for o in combine([first, same, near], [], [])] == [1600, 1320]
    holed = first.copy()
    holed[12:48, 20:30] = False  # 1240 of 1600: the box is the same, the mask is not
    assert len(combine([first, holed], [], [])) == 2


def test_things_that_match_an_lvis_instance_go():
    lvis = box(10, 50, 10, 50)
    at_seventy = box(10, 50, 10, 38)  # 1120 of 1600: exactly 0.7, which is no match
    over = box(10, 50, 10, 39)  # 0.725
    objects = combine([lvis], [at_seventy, over], [])
    assert [(o.source, int(o.mask.sum())) for o in objects] == [("lvis", 1600), ("coco", 1120)]
    twins = combine([], [lvis, lvis.copy()], [])  # things are only compared with LVIS
    assert len(twins) == 2


def test_small_things_and_small_stuff_go_and_stuff_lies_outside_all_instances():
    assert combine([box(0, 8, 0, 10)], [box(50, 58, 0, 9)], [])[0].mask.sum() == 80  # 80 stays, 72 goes
    assert len(combine([box(0, 8, 0, 10)], [box(50, 58, 0, 9)], [])) == 1
    sky = box(0, 30, 0, 31)
    objects = combine([box(0, 20, 0, 20)], [], [sky])  # 530 pixels are left of it
    assert objects[1].stuff
    np.testing.assert_array_equal(objects[1].mask, sky & ~box(0, 20, 0, 20))
    assert len(combine([box(0, 20, 0, 20)], [], [box(0, 30, 0, 30)])) == 1  # 500 are not over 500


def test_parts_belong_to_the_smallest_that_holds_them():
    person, shirt, button = box(0, 90, 0, 60), box(20, 60, 5, 55), box(30, 40, 20, 30)
    beside = box(50, 100, 50, 120)  # overlaps the person in a little
    assert parents([Shape(m) for m in (button, person, shirt, beside)]) == [2, None, 1, None]
    half = box(0, 40, 0, 75)  # 60 of 75 columns are the person's: exactly 0.8, which is no part
    assert parents([Shape(m) for m in (person, half)]) == [None, None]
    assert parents([Shape(person), Shape(person.copy())]) == [None, 0]  # of equals the earlier is larger


def slow(lvis, things, stuff):
    """The same rules, pixel sets and pycocotools' IoU instead of boxes and slices."""

    def iou(a, b):
        coded = [rle.encode(np.asfortranarray(m.astype(np.uint8))) for m in (a, b)]
        return rle.iou([coded[0]], [coded[1]], [0])[0, 0]

    def box_iou(a, b):
        corners = [rle.toBbox(rle.encode(np.asfortranarray(m.astype(np.uint8)))) for m in (a, b)]
        return rle.iou(np.array([corners[0]]), np.array([corners[1]]), [0])[0, 0]

    kept = []
    for mask in lvis:
        if mask.sum() >= 80 and not any(box_iou(mask, o) > 0.7 and iou(mask, o) > 0.85 for o in kept):
            kept.append(mask)
    own = list(kept)
    for mask in things:
        if mask.sum() >= 80 and not any(box_iou(mask, o) > 0.7 and iou(mask, o) > 0.7 for o in own):
            kept.append(mask)
    sets = [set(map(tuple, np.argwhere(m).tolist())) for m in kept]
    above = []
    for i, pixels in enumerate(sets):
        holders = [
            j
            for j, other in enumerate(sets)
            if (len(other), -j) > (len(pixels), -i) and len(pixels & other) / len(pixels) > 0.8
        ]
        above.append(min(holders, key=lambda j: (len(sets[j]), -j)) if holders else None)
    taken = set().union(*sets) if sets else set()
    rest = [set(map(tuple, np.argwhere(m).tolist())) - taken for m in stuff]
    return sets, above, [r for r in rest if len(r) > 500]


@pytest.mark.parametrize("seed", range(8))
def test_the_rules_agree_with_a_slow_way_to_the_same(seed):
    rng = np.random.default_rng(seed)

    def random_mask():
        mask = np.zeros((60, 80), bool)
        rows, columns = draw.ellipse(*(rng.random(2) * [60, 80]), *(4 + rng.random(2) * 25), shape=mask.shape)
        mask[rows, columns] = True
        return mask

    lvis = [random_mask() for _ in range(6)]
    lvis += [np.roll(m, rng.integers(0, 3), 1) for m in lvis[:3]]  # near duplicates
    things = [np.roll(m, rng.integers(0, 4), 0) for m in lvis[2:5]] + [random_mask() for _ in range(4)]
    stuff = [random_mask() for _ in range(3)]
    sets, above, rest = slow(lvis, things, stuff)
    objects = combine(lvis, things, stuff)
    found = [set(map(tuple, np.argwhere(o.mask).tolist())) for o in objects]
    assert found == sets + rest
    assert [o.parent for o in objects] == above + [None] * len(rest)
    assert [o.stuff for o in objects] == [False] * len(sets) + [True] * len(rest)


def test_overlapping_masks_come_out_of_their_layers_unchanged():
    rng = np.random.default_rng(3)
    masks = []
    for top, left in rng.integers(0, 90, (300, 2)):
        bottom, right = np.array([top, left]) + rng.integers(1, 40, 2)
        masks.append(box(top, bottom, left, right))
    drawn, places = pack(masks)
    layers = list(drawn)
    for mask, (layer, value) in zip(masks, places, strict=True):
        assert 0 < value < 255
        np.testing.assert_array_equal(layers[layer] == value, mask)


@pytest.fixture(scope="session")
def fixtures(shared):
    return shared / "data" / "fixtures"


def build(out, *options):
    return main([*map(str, options), "--out", str(out), "--jobs", "1"])


def objects_of(folder):
    """The objects of each image by its key, read from the shards without the reader of the product."""
    found = {}
    for path in folder.glob("shard-*.zip"):
        with zipfile.ZipFile(path) as archive:
            for row in map(json.loads, archive.read("index.jsonl").splitlines()):
                data = [archive.read(f"{row['key']}.{n}.png") for n in range(row["layers"])]
                layers = [cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_UNCHANGED) for d in data]
                found[row["key"]] = [
                    Object(packed(layers[layer] == value), "", parent, stuff)
                    for layer, value, parent, stuff in row["objects"]
                ]
    return found


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


def write_community(root, images):
    """The community's form, as its readers describe it."""
    (root / "masks").mkdir(parents=True)
    (root / "images").mkdir()
    samples = {}
    for key, objects in images.items():
        layers, places = pack([o.mask for o in objects])
        coded = [cv2.imencode(".png", layer)[1] for layer in layers]
        (root / "masks" / f"{key}.pickle").write_bytes(pickle.dumps((coded, dict(enumerate(places)))))
        count = sum(not o.stuff for o in objects)
        hierarchy = {
            n: {"children": [], "parent": o.parent, "node_level": 0} if o.parent is not None else None
            for n, o in enumerate(objects[:count])
        }
        samples[key] = {"num_instance_masks": count, "hierarchy": hierarchy}
        cv2.imwrite(str(root / "images" / f"{key}.jpg"), np.zeros((*objects[0].mask.shape, 3), np.uint8))
    (root / "hannotation.pickle").write_bytes(pickle.dumps(samples))
    return root


IMAGES = {
    "000000000009": combine([box(0, 90, 0, 60), box(20, 60, 5, 55)], [box(0, 40, 70, 110)], [box(50, 100, 60, 120)]),
    "000000000025": combine([box(5, 45, 5, 45)], [], []),
}


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_communitys_form_reads_back_the_same(tmp_path, protocol, monkeypatch, capsys):
    dumps = pickle.dumps
    monkeypatch.setattr(pickle, "dumps", lambda value: dumps(value, protocol))
    root = write_community(tmp_path / "train", IMAGES)
    assert build(tmp_path / "set", "--community", root, "--images", root / "images") == 0
    assert "2 photos" in capsys.readouterr().out
    stored = objects_of(tmp_path / "set")
    assert stored.keys() == IMAGES.keys()
    for key, objects in stored.items():
        for found, expected in zip(objects, IMAGES[key], strict=True):
            np.testing.assert_array_equal(found.mask, expected.mask)
            assert (found.parent, found.stuff) == (expected.parent, expected.stuff)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("where", ["hannotation.pickle", "masks/000000000009.pickle"])
def test_a_pickle_with_a_program_in_it_is_refused_and_not_run(tmp_path, capsys, where):
    root = write_community(tmp_path / "train", IMAGES)
    (root / where).write_bytes(pickle.dumps({"000000000009": Harm(tmp_path / "harm")}))
    assert build(tmp_path / "set", "--community", root, "--images", root / "images") == 2
    assert "mkdir" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy.lib\nload\n.",
        b"\x80\x04cbuiltins\ngetattr\n.",
        pickle.dumps(np.float64),
    ],
)
def test_what_is_not_plain_data_is_not_read(tmp_path, data):
    with pytest.raises(ConfigError, match="is not read"):
        read_pickle(data, tmp_path)


def test_damaged_files_of_the_community_are_told(tmp_path):
    root = write_community(tmp_path / "train", IMAGES)
    (root / "masks" / "000000000025.pickle").write_bytes(pickle.dumps(([], {0: (0, 1)})))
    with pytest.raises(ConfigError, match="not of the community's form"):
        Community(root).objects("000000000025")
    (root / "hannotation.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(ConfigError, match="not a mapping"):
        Community(root)


def test_training_draws_objects_parts_and_at_times_stuff(tmp_path):
    root = write_community(tmp_path / "train", IMAGES)
    assert build(tmp_path / "set", "--community", root, "--images", root / "images", "--name", "mine") == 0
    images = open_images(tmp_path, ["set"])
    assert {r.set for r in images.records} == {"mine"}
    record, (_, layers) = images.records[0], images.load(0)
    objects = IMAGES[record.key]
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(200):
        kept = without_stuff(layers, record, rng, 0.3)
        target = pick_object(kept, record, rng, merge=0.0, least=0.002)
        (number,) = [n for n, o in enumerate(objects) if np.array_equal(target == 1, o.mask)]
        seen.add(number)
        if not objects[number].stuff:
            continue
        assert any_object(kept)[objects[number].mask].all()
    assert seen == set(range(len(objects)))
    never = without_stuff(layers, record, rng, 0.0)
    assert not any_object(never)[objects[-1].mask].any()
    raw = {"network": "icmformer_vit_tiny224", "data": {"shards": ["set"]}, "samples": 8, "batch": 2}
    sample = SampleSet(images, parse_config(raw)).sample(0)
    assert (sample.target == 1).any()


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


def write_joined(root):
    """Two images with LVIS and panoptic annotations at once, and what the rules make of them by hand."""
    size = (100, 120)
    lvis = {"000000000001": [box(10, 60, 10, 60)], "000000000002": [box(0, 40, 0, 40), box(5, 20, 5, 20)]}
    things = {"000000000001": [box(12, 60, 10, 60), box(65, 95, 70, 110)], "000000000002": []}
    stuff = {"000000000001": [box(0, 100, 60, 70)], "000000000002": [box(30, 100, 0, 120)]}
    (root / "images").mkdir(parents=True)
    (root / "panoptic").mkdir()
    images = []
    annotations: list[dict] = []
    panoptic: list[dict] = []
    for number, key in enumerate(lvis, 1):
        cv2.imwrite(str(root / "images" / f"{key}.jpg"), np.zeros((*size, 3), np.uint8))
        images.append({"id": number, "file_name": f"{key}.jpg", "height": size[0], "width": size[1]})
        for mask in lvis[key]:
            rows, columns = np.nonzero(mask)
            top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            ring = [left, top, right, top, right, bottom, left, bottom]
            annotations.append({"image_id": number, "segmentation": [[int(v) for v in ring]]})
        ids = np.zeros(size, np.int32)
        segments = []
        for place, (mask, category) in enumerate([(m, 1) for m in things[key]] + [(m, 2) for m in stuff[key]], 1):
            ids[mask] = place
            segments.append({"id": place, "category_id": category, "iscrowd": 0})
        coded = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], -1).astype(np.uint8)  # RGB: id = R + 256 G
        cv2.imwrite(str(root / "panoptic" / f"{key}.png"), coded[..., ::-1])
        panoptic.append({"image_id": number, "file_name": f"{key}.png", "segments_info": segments})
    (root / "lvis.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    categories = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}]
    (root / "panoptic.json").write_text(
        json.dumps({"images": images, "annotations": panoptic, "categories": categories})
    )
    return root


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
