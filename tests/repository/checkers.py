"""The programs that check the repository's own files. CI has all of them; elsewhere their tests skip."""

import os
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT


def checker(name):
    """The path of a program of the environment, or on PATH."""
    own = Path(sysconfig.get_path("scripts"), name)
    found = str(own) if own.exists() else shutil.which(name)
    if found:
        return found
    told = f"{name} is not installed; `make setup` does it"
    if os.environ.get("CI"):  # which installs all of them: a check that is left out would not be noticed
        pytest.fail(told, pytrace=False)
    pytest.skip(told)


def run(name, *words, folder=ROOT, **environment):
    """What a checker says: its status and its output."""
    done = subprocess.run(
        [checker(name), *map(str, words)],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def fits(schema, *files):
    """Nothing, where files fit a schema that comes with check-jsonschema; else an assertion with what does not."""
    code, told = run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
    assert code == 0, told


@cache
def tracked(*patterns):
    """Files that git knows or would add, from the root of the clone; links left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a clone of the repository")
    names = sorted(set(listed.stdout.split("\0")) - {""})
    return tuple(name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink())


class Unconverted(yaml.SafeLoader):
    """YAML as GitHub reads it: `on` is a word."""


Unconverted.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(name):
    """A YAML file of the repository; true and false are words, too."""
    return yaml.load((ROOT / name).read_text(), Unconverted)
