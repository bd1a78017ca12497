"""The hooks before a commit: programs of the environment alone, which find what they are there for."""

import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.repository.checkers import checker, read, run

HOOKS = {hook["id"]: hook for repository in read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]}


def test_the_config_is_valid():
    code, told = run("pre-commit", "validate-config", ".pre-commit-config.yaml")
    assert code == 0, told


def test_nothing_is_fetched():
    assert [repository["repo"] for repository in read(".pre-commit-config.yaml")["repos"]] == ["local"]
    for hook in HOOKS.values():
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
        assert "additional_dependencies" not in hook


def git(folder, *words):
    own = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *own, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    """A small repository with these hooks, and with the programs that they start."""
    folder, programs = tmp_path / "clone", tmp_path / "clone/.venv/bin"
    programs.mkdir(parents=True)
    for name in {hook["entry"].split()[0].rpartition("/")[2] for hook in HOOKS.values()}:
        (programs / name).symlink_to(sys.executable if name == "python" else checker(name))
    for name in (".pre-commit-config.yaml", ".yamllint", "pyproject.toml", "CHANGELOG.md", ".github/zizmor.yml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "release", folder / "release", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "icmformer").mkdir()
    shutil.copy(ROOT / "icmformer/version.py", folder / "icmformer/version.py")
    (folder / ".gitignore").write_text("/.venv/\n__pycache__/\n.ruff_cache/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is", "--no-verify")
    return folder


def hooks(folder, *words):
    """Status and output of the hooks, on what is staged."""
    git(folder, "add", "--all")
    return run("pre-commit", "run", "--color=never", *words, folder=folder, PRE_COMMIT_HOME=str(folder.parent / "home"))


def test_what_is_well_passes(clone):
    (clone / "well.py").write_text('"""Nothing."""\n\nNUMBER = 1\n')
    (clone / "well.yml").write_text("a: 1\n")
    code, told = hooks(clone)
    assert code == 0, told
    assert "ruff format" in told


@pytest.mark.parametrize(
    ("hook", "name", "text"),
    [
        ("ruff", "a.py", '"""Nothing."""\n\nimport os\n'),
        ("ruff-format", "a.py", '"""Nothing."""\n\nNUMBER=1\n'),
        ("yamllint", "a.yml", "a: 1\na: 2\n"),
        ("actionlint", ".github/workflows/a.yml", "on: push\njobs: {a: {runs-on: ubuntu-latest, steps: [{ran: x}]}}\n"),
        ("zizmor", ".github/workflows/a.yml", "on: pull_request_target\njobs: {}\n"),
        ("version", "a.md", "docker run icmformer:9.9.9-cpu\n"),
        ("large-files", "a.bin", "0" * 1_100_000),
        ("merge-markers", "a.md", "<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n"),
        ("case-conflict", "Release/version.py", '"""Another."""\n'),
        ("line-ends", "a.md", "one\r\ntwo\nthree\n"),
    ],
)
def test_a_hook_finds_what_it_is_there_for(clone, hook, name, text):
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_bytes(text.encode())
    code, told = hooks(clone, hook)
    assert code == 1, told
    assert "Failed" in told
    assert name.rpartition("/")[2] in told or hook in ("ruff", "ruff-format", "case-conflict", "zizmor"), told


def test_every_hook_is_tested():
    tested = {case[0] for case in test_a_hook_finds_what_it_is_there_for.pytestmark[0].args[1]}
    assert set(HOOKS) - tested == {"mypy"}  # which is `make lint`
