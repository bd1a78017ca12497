"""What `pip install` of the wheel gives: built, looked into, and installed beside a user's own `training`."""

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import icmformer
from icmformer.cli.applications import PROGRAMS
from tests.conftest import ROOT
from tests.tryout.running import Running

pytest.importorskip("build", reason="the package `build`, which builds wheels, is not installed")
pytest.importorskip("hatchling")


def build(source, out, kind):
    """One distribution of a source tree."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The source distribution, unpacked."""
    home = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, home / "out", "sdist")) as archive:
        archive.extractall(home / "in", filter="data")
    (folder,) = (home / "in").iterdir()
    return folder


def test_nothing_but_the_package_is_installed(wheel):
    names = set(contents(wheel))
    assert {name.split("/")[0] for name in names} == {"icmformer", f"icmformer-{icmformer.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".sh"))]
    tracked = {
        path.relative_to(ROOT).as_posix()
        for folder in ("icmformer", "training", "ls_backend", "serverless")
        for path in (ROOT / folder).rglob("*.py")
    }
    ours = {re.sub(r"^icmformer/applications/(?!__init__)", "", name) for name in names if name.endswith(".py")}
    assert ours == tracked
    for kind in ("model.safetensors", "config.json", "SHA256SUMS", "MODEL_CARD.md"):
        assert {f"icmformer/assets/starter/{kind}", f"icmformer/assets/starter-open/{kind}"} <= names
    assert "icmformer/assets/starter-open/PHOTOS.csv" in names
    assert wheel.stat().st_size < 20e6
    assert "icmformer/py.typed" in names
    assert "icmformer/applications/serverless/function.yaml" in names  # serverless.local reads it
    assert "icmformer/applications/training/configs/starter.yaml" in names


def test_the_source_distribution_builds_the_same_wheel(wheel, sources, tmp_path):
    assert contents(build(sources, tmp_path / "wheel", "wheel")) == contents(wheel)


def test_its_page_says_what_it_is_and_no_link_is_relative(wheel):
    files = contents(wheel)
    (name,) = [name for name in files if name.endswith(".dist-info/METADATA")]
    about = email.message_from_bytes(files[name])
    assert about["Version"] == icmformer.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["License-Expression"] == project["license"]
    assert {entry.split(",")[0] for entry in about.get_all("Project-URL")} >= {"Documentation", "Source", "Issues"}
    text = about.get_payload(decode=True).decode()
    assert text.startswith("# icmformer")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(targets) > 5
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    paths = [re.sub(r"^https://[^/]+/icmformer/icmformer/(blob/)?main/|#.*", "", target) for target in targets]
    assert [path for path in paths if path and "://" not in path and not (ROOT / path).exists()] == []


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel and what it requires, beside a package `training` of somebody else."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(home / "env")], check=True, timeout=300)
    python = home / "env" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--no-cache-dir", "--constraint", ROOT / "constraints/cpu.txt", wheel]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    if done.returncode and "CI" not in os.environ and re.search(r"NewConnectionError|NameResolutionError", done.stderr):
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (packages,) = (home / "env" / "lib").glob("python*/site-packages")
    for name in ("training", "serverless", "ls_backend"):
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("raise RuntimeError('this is not of icmformer')")
    return home


def called(home, *words):
    """A command of the environment, called from a folder that has a `training` of its own, too."""
    folder = home / "elsewhere"
    (folder / "training").mkdir(parents=True, exist_ok=True)
    (folder / "training" / "__init__.py").write_text("raise RuntimeError('this is not of icmformer, either')")
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "ICMFORMER_"))}
    environment |= {"ICMFORMER_CACHE_DIR": str(home / "cache"), "OMP_WAIT_POLICY": "passive"}
    program = home / "env" / "bin" / words[0]
    return subprocess.run(
        [program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_empty_environment_gets_what_it_needs_and_clicks(installed, tmp_path):
    checked = called(installed, "python", "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout
    photo = ROOT / "docs/figures/label_studio.jpg"
    mask = tmp_path / "mask.png"
    done = called(installed, "icmformer", "segment", str(photo), "--click", "400,300", "-o", str(mask))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    image = icmformer.LoadedImage.from_bytes(photo.read_bytes())
    engine = icmformer.Engine.from_weights("starter", "cpu", runtime="torch")  # a plain install has no OpenVINO
    expected = engine.segment(image, clicks=[icmformer.Click(400, 300)]).mask
    assert expected.any()
    np.testing.assert_array_equal(np.asarray(Image.open(mask)) > 0, expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_to_try_opens_and_answers_a_click(installed):
    running = Running(
        ROOT / "docs/figures/label_studio.jpg",
        "--no-browser",
        program=[installed / "env" / "bin" / "icmformer"],
        PYTHONPATH="",
        ICMFORMER_CACHE_DIR=str(installed / "cache"),
    )
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(running.address, timeout=60) as page:
            assert "<title>icmformer try" in page.read().decode()
        prompt = {"clicks": [{"x": 400, "y": 300, "positive": True}], "box": None}
        request = urllib.request.Request(
            f"{running.address}photos/0/mask",
            json.dumps(prompt).encode(),
            {"Content-Type": "application/json"},
        )
        with opener.open(request, timeout=60) as reply:
            assert json.load(reply)["area"] > 0
    finally:
        status, said = running.stop()
    assert (status, "Traceback" in said) == (0, False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_its_commands_answer_or_say_what_to_install(installed):
    told = called(installed, "icmformer", "--help")
    for words in PROGRAMS:
        assert re.search(rf"^ +{words[0]} ", told.stdout, re.M), words
    doctor = called(installed, "icmformer", "doctor")
    assert "Traceback" not in doctor.stdout + doctor.stderr
    for words, program in PROGRAMS.items():
        done = called(installed, "icmformer", *words, "--help")
        if done.returncode:
            assert done.stderr.startswith("error: ")
            assert f"pip install 'icmformer[{program.extra}]'" in done.stderr, done.stderr
            assert len(done.stderr.splitlines()) == 1
        else:
            assert done.stdout.startswith(f"usage: icmformer {' '.join(words)} ")
    assert called(installed, "icmformer", "evaluate", "--help").returncode


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_with_the_extra_weights_are_evaluated(installed, wheel, tmp_path):
    """The servers are started from an installed wheel in tests/deploy/test_containers.py."""
    command = [
        "-m",
        "pip",
        "install",
        "--no-cache-dir",
        "--constraint",
        ROOT / "constraints/cpu.txt",
        f"{wheel}[train]",
    ]
    done = called(installed, "python", *command)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, pixels in (("images", data.coffee()), ("masks", np.zeros(data.coffee().shape[:2], np.uint8))):
        (tmp_path / folder).mkdir()
        if folder == "masks":
            pixels[120:330, 150:480] = 255
        Image.fromarray(pixels).save(tmp_path / folder / "cup.png")
    options = ["--dataset", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "out"), "--profile", "fast"]
    done = called(installed, "icmformer", "evaluate", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["objects"] == 1
    done = called(
        installed, "icmformer", "finetune", "--annotations", str(tmp_path / "nothing"), "--out", str(tmp_path)
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_application_is_found_below_the_package_alone(installed):
    where = "import icmformer.applications.training as t; print(t.__file__)"
    done = called(installed, "python", "-P", "-c", where)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parts[-4:] == ("icmformer", "applications", "training", "__init__.py")
    theirs = called(installed, "python", "-P", "-c", "import training")
    assert "this is not of icmformer" in theirs.stderr
