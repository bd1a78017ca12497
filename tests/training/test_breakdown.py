"""What an evaluation tells by groups, and its worst objects on a picture."""

import hashlib
import json
import zipfile

import cv2
import numpy as np
import pytest

from icmformer import Click
from tests.conftest import TINY, TRAINED
from training.breakdown import main
from training.evaluation.benchmarks import EvalObject, ShardObject, load_benchmark
from training.evaluation.hard_cases import error_map, framed, hardest, sheet
from training.evaluation.runner import evaluate
from training.evaluation.settings import EvaluationSettings
from training.evaluation.stratified import groups_of, tables
from training.worst import main as draw


@pytest.fixture(scope="module")
def evaluated(shard_root, tmp_path_factory):
    """An evaluation of the held-out images."""
    out = tmp_path_factory.mktemp("evaluated")
    evaluate(EvaluationSettings("never-trained", shard_root, weights=TRAINED, profile="fast"), out)
    return out


def a_mask(height, width, rows, columns):
    mask = np.zeros((height, width), np.int32)
    mask[rows, columns] = 1
    return mask


def seven_squares():
    return np.maximum.reduce([a_mask(100, 100, slice(5, 11), slice(s, s + 6)) for s in range(5, 61, 9)])


def two_squares():
    return np.maximum(*[a_mask(100, 100, slice(s, s + 20), slice(s, s + 20)) for s in (5, 60)])


@pytest.mark.parametrize(
    ("truth", "groups"),
    [
        (a_mask(100, 100, slice(10, 15), slice(10, 90)), ("1% to 5%", "thin", "one")),
        (a_mask(100, 100, slice(10, 15), slice(10, 30)), ("1% to 5%", "not thin", "one")),  # 4 to 1
        (a_mask(100, 100, slice(10, 14), slice(10, 34)), ("under 1%", "not thin", "one")),  # 6.0 to 1: 4 > 0.4 * 9.8
        (a_mask(100, 100, slice(10, 14), slice(10, 36)), ("1% to 5%", "thin", "one")),  # 6.5 to 1
        (seven_squares(), ("1% to 5%", "not thin", "several")),
        (a_mask(100, 100, slice(0, 60), slice(0, 60)), ("over 20%", "not thin", "one")),
        (two_squares(), ("5% to 20%", "not thin", "several")),
    ],
)
def test_groups_by_hand(truth, groups):
    item = EvalObject("x", None, None, "any")
    assert tuple(groups_of(item, truth).values()) == groups


def test_a_photos_set_and_whether_it_was_ever_trained_on_are_groups():
    truth = a_mask(10, 10, slice(0, 5), slice(0, 5))
    told = [groups_of(ShardObject("x", None, None, "labels", index=0, set=name), truth) for name in ("solar", "coco")]
    assert [groups["kind of set"] for groups in told] == [
        "set never trained on",
        "set trained on, except these photos",
    ]
    assert [groups["set"] for groups in told] == ["solar", "coco"]
    solar = ShardObject("x", None, None, "labels", index=0, set="solar")
    assert groups_of(solar, truth, trained_on={"solar"})["kind of set"] == "set trained on, except these photos"


def test_tables_by_hand():
    objects = [({"shape": "thin"}, [0.5, 0.82, 0.9]), ({"shape": "thin"}, [0.3] * 20), ({"shape": "not thin"}, [0.95])]
    lines = tables(objects).splitlines()
    assert lines[2] == "| all objects | 3 | 7.67 | 8.00 | 8.00 | 1 | 0.583 |"
    assert lines[-2] == "| not thin | 1 | 1.00 | 1.00 | 1.00 | 0 | 0.950 |"
    assert lines[-1] == "| thin | 2 | 11.00 | 11.50 | 11.50 | 1 | 0.400 |"


def a_shard(path, photos):
    """A zip shard of plain photos: key -> set and the side of its square object, in a photo of 100 x 100."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, (_, side) in photos.items():
            labels = a_mask(100, 100, slice(0, side), slice(0, side)).astype(np.uint8)
            for suffix, picture in ((".webp", np.dstack([labels * 99] * 3)), (".png", labels)):
                archive.writestr(key + suffix, cv2.imencode(suffix, picture)[1].tobytes())
        records = [{"key": key, "set": kind, "labels": [1]} for key, (kind, _) in photos.items()]
        archive.writestr("index.jsonl", "\n".join(map(json.dumps, records)))


def test_only_photos_that_no_run_trains_on_are_listed(shard_root, tmp_path):
    objects = load_benchmark("never-trained", shard_root)
    assert {(item.set, item.index) for item in objects} == {("solar", 5)}
    keys = [f"k{n}" for n in range(200)]
    tenth = {key for key in keys if hashlib.sha256(key.encode()).digest()[0] % 10 == 0}
    a_shard(tmp_path / "train-000.zip", dict.fromkeys(keys, ("coco", 20)))
    a_shard(
        tmp_path / "val-000.zip",
        {"v1": ("coco", 4), "v2": ("coco", 3), **{f"m{n}": ("duts_tr", 20) for n in range(80)}},
    )
    objects = load_benchmark("never-trained", tmp_path)
    # of the training shard a tenth, of the other all; objects of 0.16% but not of 0.09%; at most 60 of a set
    assert 10 < len(tenth) < 40
    assert {item.name for item in objects if item.set == "coco"} == {f"coco_{key}_1" for key in {*tenth, "v1"}}
    assert sum(item.set == "duts_tr" for item in objects) == 60


def test_the_command_prints_every_kind_of_group(evaluated, capsys):
    assert main([str(evaluated)]) == 0
    told = capsys.readouterr().out
    for kind in ("kind of set", "set", "share of the photo", "shape", "pieces"):
        assert f"| {kind} | objects |" in told
    assert "| solar | 2 |" in told


def test_the_worst_never_get_there():
    def item(name):
        return EvalObject(name, None, None, "any")

    rows = {"late": [0.5, 0.6, 0.92], "never": [0.5, 0.8, 0.85], "lost": [0.5, 0.4, 0.3], "soon": [0.91]}
    found = hardest([(item(name), {"ious": ious}) for name, ious in rows.items()], 3)
    assert [item.name for item, _ in found] == ["lost", "never", "late"]


def test_an_error_map_shows_right_missed_and_too_much():
    truth = a_mask(100, 200, slice(20, 80), slice(20, 100))
    truth[:, 180:] = -1
    mask = np.zeros((100, 200), bool)
    mask[20:80, 60:190] = True
    tile = error_map(None, truth, mask, [Click(30.5, 50.5)])
    assert tile.shape == (100, 200, 3)
    assert tile[25, 80].tolist() == [200, 200, 200]  # right
    assert tile[25, 40].tolist() == [225, 50, 45]  # missed
    assert tile[25, 150].tolist() == [40, 95, 230]  # too much
    assert tile[25, 185].tolist() == tile[5, 5].tolist() == [255, 255, 255]  # ignored, background
    assert tile[50, 26].tolist() == [0, 130, 50]  # the click, beside its number
    photo = np.full((100, 200, 3), 90, np.uint8)
    over = error_map(photo, truth, mask, [])
    assert over[25, 80].tolist() == over[5, 5].tolist() == [90, 90, 90]
    assert over[25, 40, 0] > over[25, 40, 1]


def test_what_is_shown_holds_object_mask_and_clicks():
    truth = a_mask(300, 400, slice(100, 140), slice(200, 300))
    mask = np.zeros((300, 400), bool)
    mask[90:120, 210:220] = True
    rows, columns = framed(truth, mask, [Click(320.5, 110.5, False)])
    # 50 rows from 90 on and 121 columns from 200 on, a quarter wider; at least 64 rows
    assert (rows.start, rows.stop) == (82, 147)
    assert (columns.start, columns.stop) == (184, 337)


def test_a_sheet_has_six_in_a_row():
    assert sheet([(np.zeros((200, 100, 3), np.uint8), "x")] * 7).shape == (2 * 226, 6 * 210, 3)


def test_the_worst_are_drawn(evaluated, tmp_path, capsys):
    picture = tmp_path / "worst.png"
    assert draw([str(evaluated), "--picture", str(picture), "--weights", TRAINED, "--count", "1", "--clicks", "1"]) == 0
    told = capsys.readouterr()
    assert "1 objects drawn" in told.out
    assert "differ" not in told.err
    drawn = cv2.imread(str(picture))
    assert drawn.shape == (226, 210 * 6, 3)
    row = max(
        (json.loads(line) for line in (evaluated / "objects.jsonl").read_text().splitlines()[1:]),
        key=lambda row: (len(row["ious"]), -row["ious"][-1]),
    )
    # the areas drawn are those of the mask that was evaluated: their ratio is the IoU after the first click
    colours = [(drawn == colour[::-1]).all(-1).sum() for colour in ((200, 200, 200), (225, 50, 45), (40, 95, 230))]
    assert colours[0] / sum(colours) == pytest.approx(row["ious"][0], abs=0.05)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--weights", TINY], "other weights"),
        (["--count", "0"], "start at 1"),
    ],
)
def test_mistakes_are_one_line(evaluated, tmp_path, capsys, options, text):
    assert draw([str(evaluated), "--picture", str(tmp_path / "w.png"), "--weights", TRAINED, *options]) == 2
    assert text in capsys.readouterr().err


def test_folders_that_hold_no_finished_evaluation_are_refused(evaluated, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "there is no" in capsys.readouterr().err
    (tmp_path / "objects.jsonl").write_text((evaluated / "objects.jsonl").read_text().splitlines()[0] + "\n")
    assert main([str(tmp_path)]) == 2
    assert "to the end first" in capsys.readouterr().err
    for odd in ("[]", '{"run": 3}', '{"run": []}\n{}', '{"run": {}}\nnonsense\n{}'):
        (tmp_path / "objects.jsonl").write_text(odd + "\n")
        assert main([str(tmp_path)]) == 2
        assert "not what an evaluation writes" in capsys.readouterr().err
    header = json.loads((evaluated / "objects.jsonl").read_text().splitlines()[0])["run"]
    for run, text in (
        ({"method": "grabcut"}, "not of training.evaluate"),
        (header | {"target_iou": 0.8}, "80% IoU only"),
    ):
        (tmp_path / "objects.jsonl").write_text(json.dumps({"run": run}) + "\n")
        assert main([str(tmp_path)]) == 2
        assert text in capsys.readouterr().err
    (tmp_path / "objects.jsonl").write_text("[]\n")
    assert main([str(tmp_path)]) == 2
    assert "not what an evaluation writes" in capsys.readouterr().err
