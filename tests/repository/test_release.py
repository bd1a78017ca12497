"""The tools that look at a wheel before it is released: they find what is wrong with one."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from release.same_wheel import WheelError, check_top_level, compare, contents
from tests.commands import run_module
from tests.conftest import ROOT
from tests.repository.checkers import tracked


def archive(path, files):
    with zipfile.ZipFile(path, "w") as written:
        for name, text in files.items():
            written.writestr(name, text)
    return path


def test_what_would_lie_beside_the_package_is_told(tmp_path):
    files = {"icmformer/a.py": "", "icmformer-1.dist-info/RECORD": "", "training/__init__.py": "", "icmformer.py": ""}
    archive(tmp_path / "icmformer-1-py3-none-any.whl", files)
    (tmp_path / "icmformer-1.tar.gz").touch()
    done = run_module("release.same_wheel", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: the wheel would install beside the package: icmformer.py, training/__init__.py\n"
    check_top_level(dict.fromkeys(list(files)[:2], ""))


def test_differences_are_told_by_file(tmp_path):
    one = contents(archive(tmp_path / "one.whl", {"icmformer/a.py": "1", "icmformer/b.py": "2", "icmformer/c.py": "3"}))
    two = contents(archive(tmp_path / "two.whl", {"icmformer/a.py": "1", "icmformer/b.py": "0", "icmformer/d.py": "4"}))
    compare(one, dict(one), "the same")
    with pytest.raises(WheelError) as told:
        compare(one, two, "the other")
    assert str(told.value).splitlines() == [
        "the other",
        "  lacks icmformer/c.py",
        "  adds icmformer/d.py",
        "  has another icmformer/b.py",
    ]


def test_a_folder_without_a_wheel_is_told(tmp_path):
    done = run_module("release.same_wheel", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path} should hold one *.whl, but holds none\n")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the clone."""
    folder = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        ROOT,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def distribution(path, change=None):
    """A source distribution of the files that git knows, one of them changed."""
    with tarfile.open(path, "w:gz") as written:
        for name in tracked():
            if name.partition("/")[0] not in ("tests", "docs"):
                written.add(ROOT / ("LICENSE" if name == change else name), f"icmformer-0/{name}")


@pytest.mark.slow
def test_a_source_distribution_that_gives_another_wheel_is_told(wheel, tmp_path):
    shutil.copy(wheel, tmp_path)
    distribution(tmp_path / "icmformer-0.tar.gz")
    done = run_module("release.same_wheel", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the same from the clone and from icmformer-0.tar.gz" in done.stdout
    distribution(tmp_path / "icmformer-0.tar.gz", change="icmformer/py.typed")
    done = run_module("release.same_wheel", tmp_path)
    assert done.returncode == 1
    assert "\n  has another icmformer/py.typed\n" in done.stderr


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel, which sees the packages of this one, but not this clone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    command = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not read
    return python, site / "icmformer"


def installed(python):
    command = [str(python), "-I", str(ROOT / "release/installed.py")]
    assert (python.name, command[1]) == ("python", "-I")
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_the_installed_package_is_well(environment):
    done = installed(environment[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1:] == ["imports: ok", "doctor: ok", "segment: ok"]


@pytest.mark.slow
def test_modules_with_effects_are_told(environment):
    python, package = environment
    wrong = {
        "print('hello')": "hello",
        "import threading; threading.Thread(target=threading.Event().wait, name='busy', daemon=True).start()": "busy",
        "import os; os.environ['NEW'] = '1'": "importing changes the environment: NEW (",
        "open('left', 'w').close()": "files were written",
        "import icmformer.nothing": "No module named 'icmformer.nothing'",
        "import winreg": "No module named 'winreg'",
        "raise RuntimeError('broken')": "RuntimeError: broken",
    }
    files = [package / f"added_{number}.py" for number in range(len(wrong))]
    for file, code in zip(files, wrong, strict=True):
        file.write_text(code + "\n")
    try:
        done = installed(python)
    finally:
        for file in files:
            file.unlink()
    assert done.returncode == 1
    for told in wrong.values():
        assert told in done.stdout
