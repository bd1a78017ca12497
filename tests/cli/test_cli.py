"""The command line, run as a user runs it."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from icmformer import Box, Click, Engine
from icmformer.cli.main import main
from icmformer.images.masks import read_mask, write_image, write_mask
from tests.commands import run_module
from tests.conftest import TINY
from tests.unit.test_geometry import rasterise


@pytest.fixture
def picture(photo, tmp_path):
    path = tmp_path / "photo.png"
    write_image(path, photo)
    return path


def segment(picture, tmp_path, *options):
    out = tmp_path / "mask.png"
    code = main(["segment", str(picture), "--weights", TINY, "--device", "cpu", "-o", str(out), *options])
    return code, out


@pytest.mark.parametrize("profile", ["exact", "fast"])
def test_segment_writes_the_engines_mask(picture, photo, tmp_path, profile):
    code, out = segment(
        picture, tmp_path, "--click", "200.5,120.5", "--negative", "20,30", "--click", "230,140", "--profile", profile
    )
    assert code == 0
    clicks = [Click(200.5, 120.5), Click(20, 30, positive=False), Click(230, 140)]
    expected = Engine.from_weights(TINY, profile=profile).segment(photo, clicks).mask
    np.testing.assert_array_equal(read_mask(out) == 1, expected)
    assert set(np.unique(cv2.imread(str(out), cv2.IMREAD_UNCHANGED))) <= {0, 255}


def test_segment_unordered_does_not_depend_on_the_order_between_the_kinds(picture, photo, tmp_path):
    positive, negative = ["--click", "200,120", "--click", "230,140"], ["--negative", "20,30"]
    expected = Engine.from_weights(TINY, profile="fast").segment(
        photo, [Click(200, 120), Click(20, 30, positive=False), Click(230, 140)], ordered=False
    )
    for clicks in ([*positive, *negative], [*negative, *positive], [*positive[:2], *negative, *positive[2:]]):
        code, out = segment(picture, tmp_path, "--unordered", *clicks)
        assert code == 0
        np.testing.assert_array_equal(read_mask(out) == 1, expected.mask)


def test_segment_takes_boxes_and_masks_to_correct(picture, photo, tmp_path):
    engine = Engine.from_weights(TINY, profile="fast")
    code, out = segment(picture, tmp_path, "--box", "150,60,330,260")
    assert code == 0
    np.testing.assert_array_equal(read_mask(out) == 1, engine.segment(photo, box=Box(150, 60, 330, 260)).mask)
    previous = np.zeros(photo.shape[:2], bool)
    previous[50:100, 50:150] = True
    write_mask(tmp_path / "previous.png", previous)
    code, out = segment(picture, tmp_path, "--mask", str(tmp_path / "previous.png"), "--negative", "60,60")
    assert code == 0
    expected = engine.segment(photo, [Click(60, 60, positive=False)], previous_mask=previous).mask
    np.testing.assert_array_equal(read_mask(out) == 1, expected)


def test_segment_prints_json_with_polygons_of_the_mask(picture, photo, tmp_path, capsys):
    code, out = segment(picture, tmp_path, "--click", "200,120", "--json", "--overlay", str(tmp_path / "o.jpg"))
    assert code == 0
    facts = json.loads(capsys.readouterr().out)
    mask = read_mask(out) == 1
    assert facts["area"] == mask.sum()
    assert 0 <= facts["score"] <= 1
    assert facts["timings_ms"]["total"] > 0
    rings = [ring for p in facts["polygons"] for ring in (p["exterior"], *p["holes"])]

    class Part:
        def __init__(self, ring):
            self.exterior, self.holes = np.array(ring), ()

    np.testing.assert_array_equal(rasterise([Part(ring) for ring in rings], mask.shape), mask)
    assert cv2.imread(str(tmp_path / "o.jpg")).shape == photo.shape


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "the prompt is empty"),
        (["--click", "9999,5"], "outside the image of 451 x 300"),
        (["--click", "5,5", "--weights", "nowhere"], "no weights 'nowhere'"),
        (["--click", "5,5", "--device", "cuda:77"], "not there"),
        (["--click", "5,5", "--mask", "missing.png"], "missing.png"),
        (["--click", "5,5", "--box", "4,4,4,9"], "area"),
        (["--click", "5,5", "-o", "mask.jpg"], "png"),
        (["--click", "5,5", "--overlay", "x.nothing"], "format"),
        (["--click", "5,5", "--json", "--max-points", "2"], "budget"),
        (["--click", "5,5", "--min-area", "-2"], "0 or more"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_two(picture, tmp_path, capsys, options, text):
    code, _ = segment(picture, tmp_path, *options)
    error = capsys.readouterr().err
    assert code == 2
    assert text in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize("option", [["--click", "5"], ["--click", "a,b"], ["--click", "nan,1"], ["--box", "1,2,3"]])
def test_arguments_that_are_no_numbers_are_usage_errors(picture, tmp_path, capsys, option):
    with pytest.raises(SystemExit) as stop:
        segment(picture, tmp_path, *option)
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_a_missing_or_broken_image_is_named(tmp_path, capsys):
    assert segment(tmp_path / "none.jpg", tmp_path, "--click", "1,1")[0] == 2
    assert "none.jpg" in capsys.readouterr().err
    (tmp_path / "text.jpg").write_text("hello")
    assert segment(tmp_path / "text.jpg", tmp_path, "--click", "1,1")[0] == 2
    assert "not an image" in capsys.readouterr().err


def test_a_bad_setting_is_named(picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ICMFORMER_MAX_PIXELS", "lots")
    assert segment(picture, tmp_path, "--click", "1,1")[0] == 2
    assert "ICMFORMER_MAX_PIXELS" in capsys.readouterr().err


def test_models_lists_every_variant(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("icmformer_vit_base448" in line and "126.4 M" in line for line in lines)
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["icmformer_vit_huge448"]["patch_size"] == 14


def test_weights_convert_info_and_verify(shared, tmp_path, capsys):
    published = shared / "reference" / "official_format_checkpoint.pth"
    folder = tmp_path / "small"
    assert main(["weights", "convert", str(published), "-o", str(folder), "--store", "fp16"]) == 0
    assert main(["weights", "convert", str(published), "-o", str(folder)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["weights", "info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "small"
    assert facts["network"]["embed_dim"] == 48
    assert facts["about"]["converted_from"] == published.name
    assert main(["weights", "verify", str(folder), str(published)]) == 0
    (folder / "model.safetensors").write_bytes(b"broken")
    assert main(["weights", "verify", str(folder)]) == 1
    assert "WRONG" in capsys.readouterr().err


def test_weights_info_lists_the_search_path(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ICMFORMER_WEIGHTS_PATH", str(tmp_path))
    assert main(["weights", "info"]) == 0
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize("package", ["torch", "cv2"])
def test_where_a_package_is_broken_commands_say_so_and_help_works(tmp_path, package):
    """`doctor` works there, too: tests/diagnosis."""
    (tmp_path / f"{package}.py").write_text("raise ImportError('libthat.so.1: cannot open shared object file')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*words):
        command = [sys.executable, "-m", "icmformer", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    segment = run("segment", "photo.jpg", "--click", "1,1", "-o", "mask.png")
    assert segment.returncode == 2
    assert segment.stderr.startswith("error: `icmformer segment` cannot start")
    assert "libthat.so.1" in segment.stderr
    assert "Traceback" not in segment.stdout + segment.stderr
    assert run("--help").returncode == 0


def test_the_installed_command_runs_and_helps():
    for words in (["--help"], ["segment", "--help"], ["weights", "convert", "--help"]):
        done = run_module("icmformer", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: icmformer")
    command = [sys.executable, "-m", "icmformer"]
    assert subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
