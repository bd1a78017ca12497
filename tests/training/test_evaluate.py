"""Whole evaluations, through the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icmformer import Caches, Click, Engine
from icmformer.images.masks import write_image, write_mask
from icmformer.inference.backends import openvino
from icmformer.weights import CloseUp, load, save
from tests.conftest import ROOT, TRAINED
from training.evaluate import main
from training.evaluation.benchmarks import load_benchmark
from training.evaluation.protocol import JitteredAnnotator
from training.evaluation.settings import EvaluationSettings, target_size
from training.simulated_annotator import SimulatedAnnotator


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Four pictures of a bright disk."""
    root = tmp_path_factory.mktemp("pairs")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    rows, columns = np.mgrid[:160, :200]
    for n in range(4):
        disk = (rows - 60 - 10 * n) ** 2 + (columns - 90) ** 2 < (25 + 5 * n) ** 2
        image = np.where(disk[..., None], np.uint8(220), np.uint8(60)) + np.zeros(3, np.uint8)
        write_image(root / "images" / f"{n}.png", image.astype(np.uint8))
        write_mask(root / "masks" / f"{n}.png", disk)
    return root


@pytest.fixture
def run(miniature):
    """Evaluates on a folder and reads the results."""

    def run(pairs, out, *options, weights=miniature):
        code = main(["--weights", weights, "--dataset", "folder", "--root", str(pairs), "--out", str(out), *options])
        assert code == 0
        return json.loads((out / "results.json").read_text())

    return run


def rows(out):
    lines = (out / "objects.jsonl").read_text().splitlines()[1:]
    return {row["name"]: (row["clicks"], row["ious"]) for row in map(json.loads, lines)}


def test_results_hold_what_was_promised(pairs, tmp_path, run, miniature):
    results = run(pairs, tmp_path, "--overlays")
    assert results["objects"] == 4
    assert results["noc"].keys() == results["nof"].keys() == {"80", "85", "90", "95"}
    assert results["noc"]["95"] is None  # sessions stopped at 0.90
    assert results["noc"]["90"] == np.mean([len(r[1]) if r[1][-1] >= 0.9 else 20 for r in rows(tmp_path).values()])
    assert results["reached"]["95"] is results["miou"] is results["auc"] is None
    there = [np.mean([max(r[1][:n]) >= 0.9 for r in rows(tmp_path).values()]) for n in range(1, 21)]
    assert results["reached"]["90"] == there
    assert results["weights"]["name"] == "miniature"
    assert len(results["weights"]["sha256"]) == 64
    assert results["seconds_per_click"] > 0
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert len(list((tmp_path / "overlays").glob("*.jpg"))) == 4


def test_results_of_one_arithmetic_are_not_mixed_into_those_of_another(pairs, monkeypatch):
    settings = EvaluationSettings("folder", pairs, profile="fast")
    usual = settings.header()
    monkeypatch.setenv("ICMFORMER_PRECISION", "fp32")
    plain = settings.header()
    assert plain != usual
    if openvino.available():
        monkeypatch.setenv("ICMFORMER_PRECISION", "int8")
        assert settings.header()["int8_ranges"] == load("starter").int8.digest
    assert EvaluationSettings("folder", pairs, profile="fast", server=None).header() != plain


def test_all_clicks_give_curve_and_area(pairs, tmp_path, run):
    results = run(pairs, tmp_path, "--all-clicks", "--limit", "2")
    assert len(results["miou"]) == 20
    assert results["miou"][0] == pytest.approx(results["miou_at_1"])
    assert 0 <= results["auc"] <= 1
    assert results["noc"]["95"] is not None


def test_a_stopped_run_goes_on_and_another_run_is_not_mixed_in(pairs, tmp_path, capsys, run, miniature):
    run(pairs, tmp_path / "whole")
    run(pairs, tmp_path / "cut")
    log = tmp_path / "cut" / "objects.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:3]) + '\n{"name": "2", "cli')  # killed while writing
    run(pairs, tmp_path / "cut")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert (
        main(
            [
                "--weights",
                miniature,
                "--dataset",
                "folder",
                "--root",
                str(pairs),
                "--out",
                str(tmp_path / "cut"),
                "--limit",
                "1",
            ]
        )
        == 2
    )
    assert "another run" in capsys.readouterr().err


UNHURRIED = """
import sys, time
from icmformer.inference.predictor import Predictor
step = Predictor.step
Predictor.step = lambda *args: time.sleep(0.1) or step(*args)
from training.evaluate import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""The command, whose objects take two seconds each: it is not at its end when it is stopped."""


def test_processes_end_with_one_that_was_killed(pairs, tmp_path, miniature):
    """Else they evaluate on, beside those of the command that goes on."""
    script, out = tmp_path / "unhurried.py", tmp_path / "out"
    script.write_text(UNHURRIED)
    command = [sys.executable, str(script), "--weights", miniature, "--dataset", "folder", "--root", str(pairs)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--jobs", "2"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (out / "objects.jsonl").exists() or not (out / "objects.jsonl").read_text().splitlines()[1:]:
        assert process.poll() is None
        time.sleep(0.05)
    assert len(living(process.pid)) >= 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while living(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def living(group):
    """The processes of a group, without those that have ended and that nobody has asked about."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_finished_objects_and_says_how_to_go_on(pairs, tmp_path, jobs, miniature):
    script, out = tmp_path / "unhurried.py", tmp_path / "out"
    script.write_text(UNHURRIED)
    command = [sys.executable, str(script), "--weights", miniature, "--dataset", "folder", "--root", str(pairs)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--jobs", jobs],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (out / "objects.jsonl").exists() or len((out / "objects.jsonl").read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command to go on" in error
    assert "Traceback" not in error
    assert 1 <= len(rows(out)) < 4


def test_two_processes_give_the_same_figures_as_one(pairs, tmp_path, run):
    one, two = run(pairs, tmp_path / "1"), run(pairs, tmp_path / "2", "--jobs", "2")
    assert rows(tmp_path / "1") == rows(tmp_path / "2")
    assert {k: v for k, v in one.items() if k != "seconds_per_click"} == {
        k: v for k, v in two.items() if k != "seconds_per_click"
    }


def test_ordered_clicks_as_served_are_the_protocol(pairs, tmp_path, run):
    run(pairs, tmp_path / "protocol", "--limit", "2", weights=TRAINED)
    run(pairs, tmp_path / "served", "--as-served", "ordered", "--limit", "2", weights=TRAINED)
    assert rows(tmp_path / "protocol") == rows(tmp_path / "served")


@pytest.mark.parametrize("profile", ["exact", "fast"])
def test_unordered_clicks_as_served_are_what_a_cold_engine_says(pairs, tmp_path, profile, run):
    run(pairs, tmp_path, "--as-served", "unordered", "--profile", profile, "--limit", "1", weights=TRAINED)
    clicks, ious = rows(tmp_path)["0"]
    image, truth = load_benchmark("folder", pairs)[0].load()
    for count in {1, len(clicks) // 2 + 1, len(clicks)}:
        engine = Engine.from_weights(TRAINED, profile=profile, caches=Caches())
        points = [
            Click(c + 0.5, r + 0.5, p) for r, c, p in sorted(clicks[:count], key=lambda c: c[2])
        ]  # negative first
        reply = engine.segment(image.pixels, points, ordered=False)
        assert SimulatedAnnotator(truth).iou(reply.mask) == pytest.approx(ious[count - 1], abs=1e-6)
        assert 0 < reply.mask.mean() < 1


def test_weights_for_448_play_davis_at_672():
    assert target_size("auto", "DAVIS", 448) == (672, 672)
    assert target_size("auto", "SBD", 448) == (448, 448)


def test_the_same_folder_is_not_taken_for_another_data_set(pairs, tmp_path, capsys, run, miniature):
    run(pairs, tmp_path / "out", "--limit", "2")
    other = tmp_path / "other"
    shutil.copytree(pairs, other)
    command = [
        "--weights",
        miniature,
        "--dataset",
        "folder",
        "--root",
        str(other),
        "--out",
        str(tmp_path / "out"),
        "--limit",
        "2",
    ]
    assert main(command) == 2
    assert "another run" in capsys.readouterr().err


def test_an_object_without_pixels_is_skipped_by_name(pairs, tmp_path, capsys, run):
    root = tmp_path / "data"
    shutil.copytree(pairs, root)
    write_mask(root / "masks" / "2.png", np.zeros((160, 200), bool))
    results = run(root, tmp_path / "out", "--limit", "4")
    assert results["objects"] == 3
    assert list(results["skipped"]) == ["2"]
    assert "skipped 2" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_one_line(pairs, tmp_path, capsys, miniature):
    (tmp_path / "file").write_text("")
    assert (
        main(["--weights", miniature, "--dataset", "folder", "--root", str(pairs), "--out", str(tmp_path / "file")])
        == 2
    )
    assert capsys.readouterr().err.startswith("error: ")


def test_a_box_start_is_measured(pairs, tmp_path, run):
    results = run(pairs, tmp_path, "--box", "ellipse+centre", "--limit", "2", weights=TRAINED)
    assert 0.3 < results["miou_at_box"] <= 1


def test_jittered_clicks_lie_inside_the_error_and_are_repeated_by_seed(pairs, tmp_path, run):
    short = ["--limit", "2", "--profile", "fast"]
    published = run(pairs, tmp_path / "middle", *short, weights=TRAINED)
    jittered = [*short, "--click-spread", "1"]
    seeds = {"a": "1", "b": "1", "c": "2"}
    told = [run(pairs, tmp_path / out, *jittered, "--seed", seed, weights=TRAINED) for out, seed in seeds.items()]
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert [result["click_spread"] for result in (published, *told)] == [0, 1, 1, 1]
    run(pairs, tmp_path / "two", *jittered, "--seed", "1", "--jobs", "2", weights=TRAINED)
    assert rows(tmp_path / "two") == rows(tmp_path / "a")
    for item in load_benchmark("folder", pairs, 2):
        (row, column, positive), *_ = rows(tmp_path / "a")[item.name][0]
        assert positive
        assert item.load()[1][row, column] == 1
        assert [row, column, positive] != rows(tmp_path / "middle")[item.name][0][0]


def test_the_refinement_pass_is_made_or_not_whatever_the_weights_say(tmp_path, run):
    rows_, columns = np.mgrid[:900, :1200]
    disk = (rows_ - 300) ** 2 + (columns - 800) ** 2 < 60**2  # small in its picture
    image = np.where(disk[..., None], np.array((220, 180, 40)), np.array((40, 70, 110))).astype(np.uint8)
    for folder, write in (("images", write_image), ("masks", write_mask)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "disk.png", image if folder == "images" else disk)
    told = {}
    for wish in ("yes", "no"):
        told[wish] = run(tmp_path, tmp_path / wish, "--refinement-pass", wish, "--profile", "fast", weights=TRAINED)
        assert told[wish]["refinement_pass"] is (wish == "yes")
    assert told["yes"]["miou_at_1"] > told["no"]["miou_at_1"] + 0.01


def test_later_clicks_zoom_in_as_the_option_says_whatever_the_weights_say(pairs, tmp_path, run, capsys):
    trained = load(TRAINED)
    serving = replace(trained.serving, close_up=CloseUp(2, 30, 1.2))
    close = str(save(tmp_path / "close", trained.config, trained.state_dict, "close", serving=serving))
    expected = {
        "": {"from_click": 2, "min_crop_size": 30, "expansion_ratio": 1.2},
        "3,20,1.1": {"from_click": 3, "min_crop_size": 20, "expansion_ratio": 1.1},
        "no": None,
    }
    masks = {}
    for wish, told in expected.items():
        out, options = tmp_path / f"wish {wish}", ["--close-up", wish] if wish else []
        found = run(pairs, out, "--all-clicks", "--limit", "1", "--profile", "fast", *options, weights=close)
        assert found["close_up"] == told
        masks[wish] = json.loads((out / "objects.jsonl").read_text().splitlines()[1])["masks"]
    plain = replace(trained.serving, close_up=None)
    usual = str(save(tmp_path / "usual", trained.config, trained.state_dict, "usual", serving=plain))
    run(pairs, tmp_path / "without", "--all-clicks", "--limit", "1", "--profile", "fast", weights=usual)
    assert masks["no"] == json.loads((tmp_path / "without/objects.jsonl").read_text().splitlines()[1])["masks"]
    assert masks["3,20,1.1"][:2] == masks["no"][:2]
    assert masks["3,20,1.1"][2] != masks["no"][2]
    assert masks[""][0] == masks["no"][0]
    assert masks[""][1] != masks["no"][1]
    common = ["--dataset", "folder", "--root", str(pairs), "--out", str(tmp_path / "bad")]
    for text, told in (("3,60", "--close-up is CLICK,PIXELS,RATIO"), ("1,60,1.2", "from_click must be 2 or a later")):
        assert main([*common, "--close-up", text]) == 2
        assert told in capsys.readouterr().err
    assert main([*common, "--server", "http://localhost:1", "--close-up", "no"]) == 2
    assert "--close-up" in capsys.readouterr().err


def test_a_spread_of_a_half_keeps_to_the_inner_half_of_one_region():
    truth = np.zeros((60, 120), np.int32)
    truth[10:51, 10:51] = truth[20:40, 80:100] = 1
    spots = set()
    for seed in range(300):
        click = JitteredAnnotator(truth, 0.5, seed).next_click(np.zeros(truth.shape, bool))
        spots.add((click.row, click.column))
    # 21 deep in the middle of the larger square; at least 10.5 deep from 20 to 40
    rows, columns = zip(*spots, strict=True)
    assert (min(rows), max(rows), min(columns), max(columns)) == (20, 40, 20, 40)
    annotator = JitteredAnnotator(truth, 0.0, 0)
    assert annotator.next_click(np.zeros(truth.shape, bool)) == (30, 30, True)


@pytest.mark.parametrize(
    ("mode", "dataset", "size"),
    [
        ("auto", "DAVIS", (224, 224)),
        ("native", "DAVIS", (224, 224)),
        ("cvpr", "SBD", (448, 448)),
        ("cvpr", "DAVIS", (672, 672)),
        ("fixed512", "SBD", (512, 512)),
        ("fixed448,672", "SBD", (448, 672)),
    ],
)
def test_zoom_modes(mode, dataset, size):
    assert target_size(mode, dataset, 224) == size


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--mode", "fixed"], "unknown zoom mode"),
        (["--mode", "fixed448,"], "unknown zoom mode"),
        (["--mode", "fixed560"], "sides that work"),
        (["--target-iou", "90"], "--target-iou"),
        (["--jobs", "0"], "--jobs starts at 1"),
        (["--limit", "0"], "--limit starts at 1"),
        (["--click-spread", "2"], "--click-spread"),
        (["--weights", "nowhere"], "no weights"),
        (["--root", "/nowhere"], "no folder"),
        (["--device", "tpu"], "device"),
        (["--device", "cuda:77", "--jobs", "2"], "not there"),
        (["--as-served", "ordered", "--mode", "fixed448"], "own input size"),
    ],
)
def test_mistakes_are_one_line_and_status_two(pairs, tmp_path, capsys, options, text, miniature):
    base = ["--weights", miniature, "--dataset", "folder", "--root", str(pairs), "--out", str(tmp_path / "o")]
    assert main([*base, *options]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_grabcut_runs_whole(shared, tmp_path, miniature):
    root = shared / "data" / "eval" / "GrabCut"
    code = main(
        [
            "--weights",
            miniature,
            "--dataset",
            "GrabCut",
            "--root",
            str(root),
            "--out",
            str(tmp_path),
            "--profile",
            "fast",
        ]
    )
    assert code == 0
    assert json.loads((tmp_path / "results.json").read_text())["objects"] == 50
