"""`.ci/run` says what was not run and why, and fails where something could have been installed and was not."""

import shutil
import subprocess

import pytest

from tests.conftest import ROOT

TOOLS = ("awk", "bash", "cat", "dirname", "ln", "mktemp", "rm", "sed", "sort", "tee")
MAKE = """#!/bin/bash
case " $FAILING " in *" $1 "*) exit 2 ;; esac
[ $1 != test ] || echo "SKIPPED [2] tests/deploy/test_nginx.py:40: no nginx: on this machine"
[ $1 != test-slow ] || echo "SKIPPED [1] tests/conftest.py:51: no nginx: on this machine"
"""
APT = """#!/bin/bash
[ "$1" != "$UNREACHED" ] || exit 100
[ "$1" = update ] || [ -n "$UNREACHED" ] || ln -sf "$0" "$HERE/${!#%-light}"
"""


@pytest.fixture
def ci(tmp_path):
    """Runs the script in a folder of its own, where all programs but the shell's are stand-ins."""
    here = tmp_path / "bin"
    here.mkdir()
    for tool in TOOLS:
        (here / tool).symlink_to(shutil.which(tool))
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")

    def program(name, text):
        (here / name).write_text(text)
        (here / name).chmod(0o755)

    def run(*, user=0, apt=APT, unreached="", failing="", there=()):
        program("id", f"#!/bin/bash\necho {user}\n")
        program("make", MAKE)
        if apt:
            program("apt-get", apt)
        for name in there:
            program(name, "#!/bin/bash\n")
        environment = {"PATH": str(here), "HERE": str(here), "UNREACHED": unreached, "FAILING": failing}
        command = [here / "bash", tmp_path / ".ci/run"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout.partition("== What ran, and what did not\n")[2].splitlines()

    return run


def test_where_everything_runs_skipped_tests_are_counted_by_reason(ci):
    code, told = ci(there=("nvidia-smi",))
    assert code == 0
    assert told == [
        *(f"make {suite}: passed" for suite in ("setup", "lint", "test", "test-slow", "test-gpu", "e2e")),
        "tests skipped, by reason:",
        "  3 no nginx: on this machine",
    ]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({"user": 1000}, "it is not there, and installing it takes root and apt-get"),
        ({"apt": None}, "it is not there, and installing it takes root and apt-get"),
        ({"unreached": "update"}, "it is not there, and apt-get reaches no package index"),
    ],
)
def test_what_cannot_be_installed_is_named_and_the_rest_goes_on(ci, where, reason):
    code, told = ci(**where)
    assert code == 0
    assert "make test-gpu: NOT RUN: there is no NVIDIA GPU" in told
    assert f"NOT INSTALLED: chromium, whose tests are skipped: {reason}" in told
    assert "make e2e: passed" in told


def test_what_could_have_been_installed_and_was_not_is_a_failure(ci):
    code, told = ci(unreached="install")
    assert code == 1
    assert "FAILED TO INSTALL: chromium, whose tests are skipped: apt-get could not install chromium" in told
    assert "make e2e: passed" in told
    code, told = ci(failing="studio")
    assert code == 1
    assert "make e2e: NOT RUN: Label Studio could not be installed" in told
    assert told[-1].startswith("FAILED TO INSTALL: Label Studio")


def test_a_suite_that_fails_keeps_none_of_the_others_and_is_named(ci):
    code, told = ci(failing="lint test-slow")
    assert code == 1
    assert ("make lint: FAILED" in told, "make test: passed" in told, "make test-slow: FAILED" in told) == (True,) * 3
    code, told = ci(failing="setup")
    assert code == 1
    assert "make setup: FAILED" in told
    assert "make test: NOT RUN: it was not reached" in told
