"""The versions that are admitted: what is said to be the oldest is, and no extra is left out."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEVELOPMENT = ("test", "lint", "docs")
"""Extras that no user installs: their oldest versions do not matter."""


def pins(name):
    lines = (ROOT / "constraints" / name).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonical(r.name): Version(next(iter(r.specifier)).version) for r in requirements}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


REQUIREMENTS = [
    Requirement(text)
    for extra, texts in [("", PROJECT["dependencies"]), *PROJECT["optional-dependencies"].items()]
    if extra not in DEVELOPMENT
    for text in texts
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_oldest_version_is_what_the_lower_bound_says(requirement):
    (bound,) = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    oldest = pins("oldest.txt")[canonical(requirement.name)]
    assert oldest in requirement.specifier
    assert oldest.release[: len(bound.release)] == bound.release, "a newer version than the bound was needed: raise it"


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_pinned_version_is_admitted(requirement):
    for kind in ("cpu", "cuda"):
        pinned = pins(f"{kind}.txt").get(canonical(requirement.name))
        assert pinned is None or pinned in requirement.specifier
        assert pinned or requirement.name in ("timm",)


def test_make_installs_with_other_constraints():
    for name in ("oldest", "newest"):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", "setup", f"CONSTRAINTS=constraints/{name}.txt"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"--constraint constraints/{name}.txt --editable" in done.stdout
