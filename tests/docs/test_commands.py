"""The commands of the documentation: their options exist, a test starts the program, the quick start runs as written.

`what_runs.txt` names the tests. Those of this file run blocks as they are written, and check that they ran all that is
said of them (`written`). Of others the source must start the program and use every option; the values are theirs.
"""

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
from tests.docs.commands import (
    NEEDS,
    WHAT_RUNS,
    blocks,
    is_started,
    options_of,
    program_of,
    source_of,
    what_runs,
)
from training.loop.config import load_config

COMMANDS = sorted({(block.page, command) for block in blocks("sh") for command in block.commands()})
VENV = ROOT / ".venv"


def test_there_are_commands_and_no_other_shell_blocks():
    assert len(COMMANDS) > 60
    assert not [block.page for language in ("bash", "console", "shell") for block in blocks(language)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_what_is_said_to_run_it_starts_its_program_with_its_options(page, command):
    entry = what_runs(command)
    assert entry, f"{page}: nothing runs this: give it a line in tests/docs/what_runs.txt"
    _, tests, missing = entry
    assert missing is None or missing in NEEDS
    assert tests or missing is None, "what can be checked without it?"
    for test in tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), path
        assert not name or source_of(test), f"there is no {test}"
    if not missing and tests and tests != (".ci/run",) and not tests[0].startswith("tests/docs/test_commands.py::"):
        source = "\n".join(map(source_of, tests))
        for program in [program_of(command)] if program_of(command) else programs_of_make(command):
            assert is_started(program, source), f"{' '.join(tests)} does not start {' '.join(program)}"
        unused = [option for option in options_of(command) if option != "-m" and f'"{option}"' not in source]
        assert unused == [], f"{' '.join(tests)} does not use it"


def programs_of_make(command):
    """The programs of ours behind a command: a file, or those of make's target, as modules or files."""
    words = shlex.split(command)
    if words[0] != "make":
        return [words[1:2] if words[1:] and words[1].endswith(".py") else words[:1]]
    ready = ["-o", ".venv/.installed", "-o", ".venv-label-studio/.installed"]
    made = subprocess.run(
        ["make", "--dry-run", *ready, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    found = [(module or Path(file).name,) for module, file in re.findall(r"python (?:-m ([\w.]+)|(\S+\.py))", made)]
    found += [program_of(line) for line in made.splitlines() if line.startswith(".venv/bin/icmformer ")]
    assert found, made
    return found


@pytest.mark.parametrize("command", [command for _, command in COMMANDS if what_runs(command)[1] == (".ci/run",)])
def test_what_ci_is_said_to_run_it_runs(command):
    words = shlex.split(command)
    suite = words[1] if words[0] == "make" else "test-slow" if "slow" in words else "test"
    assert re.search(rf"^ *suite {suite}\b(?!-)", (ROOT / ".ci/run").read_text(), re.M)
    assert words[0] == "make" or any(word.startswith("tests/") for word in words)


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if not c[1].startswith("cp ")])
def test_files_of_the_repository_that_it_names_exist(page, command):
    folders = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} - {"build", "dist", "out", "runs"}
    for word in re.findall(r"(?<![\w./-])[\w.-]+(?:/[\w.-]+)+", command):
        if word.partition("/")[0] in folders:
            assert (ROOT / word).exists(), f"{page}: {word}"


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


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if "--" in c[1] and program_of(c[1])])
def test_its_options_exist(page, command):
    told = help_of(*program_of(command))
    for option in options_of(command):
        if option.startswith("--") and option not in ("--nproc-per-node", "--server-host"):
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told), f"{page}: {option}"


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
    for module in re.findall(r"-m ((?:training|demo)[\w.]*)", done.stdout):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    for script in re.findall(r"python (\S+\.py)", done.stdout):
        assert (ROOT / script).is_file()


@pytest.mark.parametrize(("bundle", "alone"), [("starter", False), ("starter-open", True)])
def test_make_trains_each_bundle_by_its_config_on_its_photos(bundle, alone):
    def commands(target):
        arguments = ["make", "--dry-run", "-o", ".venv/.installed", target, "DATA=data", f"BUNDLE={bundle}"]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    (config,) = re.findall(r"training\.train (\S+)", commands("starter"))
    assert load_config(ROOT / config).data.permissive is alone
    told = commands("starter-bundle")
    assert f"training.export runs/{bundle} " in told
    assert ("--permissive" in told) is ("PHOTOS.csv" in told) is alone
    assert (ROOT / re.findall(r"cp \S+ (\S+)", told)[0] / "MODEL_CARD.md").is_file()


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


@pytest.fixture
def written(request):
    """Hands out blocks of pages, to be run as they are written.

    At its end a test must have taken every command that what_runs.txt says it runs.
    """
    taken = set()

    def take(page, text, language="sh"):
        """The one block of a page that holds a text."""
        (block,) = [block for block in blocks(language) if block.page == page and text in block.text]
        taken.update(block.commands() if language == "sh" else ())
        return block.text

    yield take
    test = f"tests/docs/test_commands.py::{request.function.__name__}"
    assert {command for _, command in COMMANDS if test in what_runs(command)[1]} <= taken


ACTIVATE = "source .venv/bin/activate\n"


def test_the_quick_start_reaches_masks(workshop, written):
    """The function served by make, clicked on by the command line, curl and Python; and the command line alone."""
    port = free_port(0)
    function = written("docs/quick_start.md", "make function PORT=8090").replace("make ", "make -o .venv/.installed ")
    server = subprocess.Popen(
        ["bash", "-ec", f"exec {function.replace('8090', str(port))}"],
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
        shell(workshop, written("docs/quick_start.md", "--server http").replace("8090", str(port)))
        served = np.asarray(Image.open(workshop / "mask.png"))
        assert 0.01 < (served > 0).mean() < 0.5
        shell(workshop, ACTIVATE + written("docs/quick_start.md", "icmformer segment photo.jpg --click 230,340 -o"))
        np.testing.assert_array_equal(np.asarray(Image.open(workshop / "mask.png")), served)
        assert Image.open(workshop / "look.jpg").size == (600, 400)
        assert "all is well" in shell(workshop, ACTIVATE + written("docs/quick_start.md", "icmformer doctor"))

        asked = written("docs/performance.md", "curl").replace("8090", str(port))
        asked = asked.replace(f"make function PORT={port} &", "")
        assert "segment.decode;dur=" in shell(workshop, ACTIVATE + asked)
        curl = written("docs/cvat.md", "curl").replace("PORT", str(port))
        assert json.loads(shell(workshop, curl)) == {"shapes": []}
        script = written("docs/cvat.md", "localhost:PORT", "python").replace("PORT", str(port))
        script = script.replace("image_width=640, image_height=480", "image_width=600, image_height=400")
        run_python(workshop, script + "\nassert mask.shape == (400, 600) and mask.any()")
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(30)


def run_python(folder, text):
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_quick_starts_other_commands_and_python_run(workshop, written):
    shutil.copy(ROOT / "docs/figures/label_studio.jpg", workshop / "photo.jpg")
    shell(workshop, ACTIVATE + written("docs/quick_start.md", "--negative"))
    assert (workshop / "mask.png").is_file()
    run_python(workshop, written("docs/quick_start.md", "engine", "python") + "\nassert result.mask.any() and polygons")


def test_weights_are_converted_as_written(workshop, written):
    """A made checkpoint in the published form takes the place of the published one."""
    text = written("docs/weights.md", "weights convert")
    torch.manual_seed(0)
    torch.save(
        {"state_dict": build_network(network_config("simpleclick_vit_tiny224")).state_dict()}, workshop / "made.pth"
    )
    name = re.search(r"(\S+\.pth)", text)[1]
    shell(workshop, ACTIVATE + text.replace(name, "made.pth"))
    assert (workshop / "weights/simpleclick-base/model.safetensors").is_file()


@pytest.mark.slow
def test_clicks_through_the_function_are_timed():
    done = run_module("demo.bench_cvat")
    assert done.returncode == 0, done.stderr
    sizes = re.findall(r"^\| (1|12|50) \| \d+ ms \| \d+ ms \| \d+ ms \| [\d.]+x and [\d.]+x \|$", done.stdout, re.M)
    assert sizes == ["1", "12", "50"]
    assert re.search(r"^\| megapixels \|.* decode \|.* segment.decode \|", done.stdout, re.M)


@pytest.mark.e2e
def test_the_two_brush_encoders_are_timed():
    python = Path(os.environ.get("ICMFORMER_STUDIO_BIN", ROOT / ".venv-label-studio" / "bin")) / "python"
    if not python.exists():
        pytest.skip("no Label Studio here; `make studio` installs it")
    command = [python, ROOT / "demo" / "bench_rle.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
