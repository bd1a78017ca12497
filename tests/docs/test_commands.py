"""Every command of the documentation is run by a test, and its options exist; the quick start runs as it is written."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demo.studio import free_port
from icmformer.models import build_network, network_config
from tests.commands import run_module
from tests.conftest import ROOT
from tests.docs.commands import NEEDS, WHAT_RUNS, blocks, what_runs

COMMANDS = sorted({(block.page, command) for block in blocks("sh") for command in block.commands()})
VENV = ROOT / ".venv"


def test_there_are_commands_and_no_other_shell_blocks():
    assert len(COMMANDS) > 60
    assert not [block.page for language in ("bash", "console", "shell") for block in blocks(language)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_test_runs_it(page, command):
    """What WHAT_RUNS names exists; a command without an entry needs one."""
    entry = what_runs(command)
    assert entry, f"{page}: nothing runs this: give it an entry in tests/docs/commands.py"
    _, test, missing = entry
    assert missing is None or missing in NEEDS
    if test:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), path
        assert not name or re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), test


def test_no_entry_is_without_a_command():
    for pattern, _, _ in WHAT_RUNS:
        assert any(re.fullmatch(pattern, command) for _, command in COMMANDS), pattern


def test_the_table_of_the_dearest_tests_is_of_tests_that_there_are():
    rows = re.findall(
        r"^\| `([\w/]+\.py)::(\w+)(?:\[.*\])?` \| [\d.]+ \|", (ROOT / "docs/contributing.md").read_text(), re.M
    )
    assert len(rows) == 20
    for path, name in rows:
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / path).read_text(), re.M), f"{path}::{name}"


@cache
def help_of(program, *words):
    if program == "cvat-cli":
        command = [Path(sys.executable).with_name(program), *words, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    else:
        done = run_module(program, *words, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


def program_of(words):
    """Module and subcommand whose --help lists the options of a documented command; None for programs not ours."""
    words = [word for word in words if "=" not in word or word.startswith("-")]
    if words[0].endswith("python") and words[1] == "-m" and words[2] != "pytest":
        sub = words[3:4] if words[2] == "training.data.download" and words[3:4] else []
        return words[2], *sub
    if words[0] == "torchrun":
        return ("training.train",)
    if words[0] == "icmformer":
        return "icmformer", *words[1 : 3 if words[1] in ("weights", "clicks") else 2]
    if words[0] == "cvat-cli":
        return "cvat-cli", "function", words[4]
    return None


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if "--" in c[1]])
def test_its_options_exist(page, command):
    words = shlex.split(command.replace("[", "").replace("]", ""))
    program = program_of(words)
    if program is None:
        pytest.skip(f"{words[0]} is not ours")
    told = help_of(*program)
    for word in words:
        if word.startswith("--") and word not in ("--nproc-per-node", "--server-host"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", told), f"{page}: {word}"


def test_make_lists_its_commands():
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  make (\S+)", told, re.M))
    used = {word for _, command in COMMANDS if command.startswith("make ") for word in [command.split()[1]]}
    assert used - {"help"} <= listed


@pytest.mark.parametrize("target", ["bench-rle", "bench-cvat", "starter", "overfit", "demo", "sbom", "audit"])
def test_targets_of_make_run_what_there_is(target):
    done = subprocess.run(
        ["make", "--dry-run", "-o", ".venv/.installed", "-o", ".venv-label-studio/.installed", target, "DATA=data"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" not in done.stdout
    for module in re.findall(r"-m ((?:training|demo|ls_backend|serverless)[\w.]*)", done.stdout):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    for script in re.findall(r"python (\S+\.py)", done.stdout):
        assert (ROOT / script).is_file()


def test_make_passes_on_how_many_tests_run_at_a_time_and_which():
    for target, selected in (("test", ""), ("test-slow", "-m slow")):
        done = subprocess.run(
            ["make", "--dry-run", "-o", ".venv/.installed", target, "JOBS=4", "ARGS=-p randomly tests/unit"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            capture_output=True,
            text=True,
            check=True,
        )
        *_, line = done.stdout.splitlines()
        assert line.startswith(f".venv/bin/python -m pytest {selected}".rstrip())
        assert " -n 4 " in line
        assert line.endswith(" -p randomly tests/unit")


@pytest.fixture
def workshop(tmp_path):
    """A folder like a clone, whose files are those of this one, so that what commands write stays apart."""
    if not (VENV / "bin" / "activate").is_file():
        pytest.skip("needs the environment that `make setup` makes")
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "out", "runs", "build"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def shell(folder, text, timeout=120):
    """Runs the text of a block as a user's bash would, failing at the first failure."""
    done = subprocess.run(
        ["bash", "-ec", text], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def of_page(page, language="sh"):
    return [block.text for block in blocks(language) if block.page == page]


def test_the_quick_start_reaches_masks(workshop):
    """The function served by make, clicked on by the command line, curl and Python; and the command line alone."""
    port = free_port(0)
    ready = "make -o .venv/.installed "  # what is installed already
    quick = [text.replace("8090", str(port)).replace("make ", ready) for text in of_page("README.md")]
    _demo, function, through, alone, doctor, *_ = quick
    assert "make -o .venv/.installed function" in function
    server = subprocess.Popen(
        ["bash", "-ec", f"exec {function}"],
        cwd=workshop,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/__internal/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        shell(workshop, through)
        served = np.asarray(Image.open(workshop / "mask.png"))
        assert 0.01 < (served > 0).mean() < 0.5
        shell(workshop, "source .venv/bin/activate\n" + alone)
        np.testing.assert_array_equal(np.asarray(Image.open(workshop / "mask.png")), served)
        assert Image.open(workshop / "look.jpg").size == (600, 400)
        assert "all is well" in shell(workshop, "source .venv/bin/activate\n" + doctor)

        (asked,) = [text for text in of_page("docs/performance.md") if "Server-Timing" in text or "curl" in text]
        asked = asked.replace("8090", str(port)).replace(f"make function PORT={port} &", "")
        assert "segment.decode;dur=" in shell(workshop, "source .venv/bin/activate\n" + asked)
        (curl,) = [text for text in of_page("docs/cvat.md") if text.startswith("curl")]
        assert json.loads(shell(workshop, curl.replace("PORT", str(port)))) == {"shapes": []}
        (script,) = of_page("docs/cvat.md", "python")
        script = script.replace("PORT", str(port)).replace(
            "image_width=640, image_height=480", "image_width=600, image_height=400"
        )
        run_python(workshop, script + "\nassert mask.shape == (400, 600) and mask.any()")
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(30)


def run_python(folder, text):
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readmes_commands_and_python_run(workshop):
    shutil.copy(ROOT / "docs/figures/label_studio.jpg", workshop / "photo.jpg")
    (use,) = [text for text in of_page("README.md") if "--negative" in text]
    shell(workshop, "source .venv/bin/activate\n" + use)
    assert (workshop / "mask.png").is_file()
    (script,) = of_page("README.md", "python")
    run_python(workshop, script + "\nassert result.mask.any() and polygons")


def test_weights_are_converted_as_written(workshop):
    """A made checkpoint in the published form takes the place of the published one."""
    (text,) = [text for text in of_page("docs/weights.md") if "weights convert" in text]
    config = network_config("simpleclick_vit_tiny224")
    torch.manual_seed(0)
    torch.save({"state_dict": build_network(config).state_dict()}, workshop / "made.pth")
    name = re.search(r"(\S+\.pth)", text)[1]
    shell(workshop, "source .venv/bin/activate\n" + text.replace(name, "made.pth"))
    assert (workshop / "weights/simpleclick-base/model.safetensors").is_file()
