"""Both Dockerfiles built, every step, and clicked through as deploy/compose.label-studio.yml runs them.

No Docker and no registry: buildah, podman, and a base that docker/base.sh makes. Two things are not those of a release:
the base, and in the GPU image torch, which is a build for CPUs.
"""

import json
import re
import time

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask

import icmformer
from demo.studio import free_port
from icmformer import Click, Engine, LoadedImage
from tests.conftest import ROOT
from tests.deploy.containers import Storage, ask, need_a_cpu_build_of_torch
from tests.deploy.dockerfile import Dockerfile
from tests.deploy.manifests import read
from tests.ls_backend.conftest import BRUSH, body, click
from tests.ls_backend.test_predict import mask_of
from tests.serverless.conftest import coded, payload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
PORT = 9090
SERVICES = {"cpu": "backend", "gpu": "backend-gpu"}
WRITABLE = {"/tmp", "/var/cache/icmformer", "/var/lib/icmformer"}
LOGIN = ("team", "stand-in")
REVISION = "0123456789abcdef"


class Image:
    """One that was built; how Compose runs it."""

    def __init__(self, storage, kind):
        begun = time.monotonic()
        self.name, self.log = storage.build(kind, REVISION=REVISION)
        self.seconds = time.monotonic() - begun
        self.storage, self.kind = storage, kind
        self.file, self.found = Dockerfile.read(kind), storage.inspect(self.name)
        service = read("compose.label-studio.yml")["services"][SERVICES[kind]]
        self.options = ["--read-only", "--read-only-tmpfs=false"] if service["read_only"] else []
        for option, field in (("tmpfs", "tmpfs"), ("cap-drop", "cap_drop"), ("security-opt", "security_opt")):
            self.options += [f"--{option}={value}" for value in service[field]]
        self.options += [f"--volume={kind}-{volume}" for volume in service["volumes"]]
        self._environment = {
            **{name: value for name, value in service["environment"].items() if "${" not in value},
            "ICMFORMER_DEVICE": "cpu",  # of the GPU image, too
            "ICMFORMER_THREADS": "1",  # as in this process: more add up in another order
            "BASIC_AUTH_USER": LOGIN[0],
            "BASIC_AUTH_PASS": LOGIN[1],
            "LABEL_STUDIO_API_KEY": "stand-in-token",
        }

    def deployed(self, **environment):
        """podman's options."""
        return [*self.options, *(f"--env={n}={v}" for n, v in {**self._environment, **environment}.items())]

    def inside(self, *command):
        """What a command prints, run as Compose runs the server."""
        return self.storage.inside(self.name, *command, options=self.deployed())


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    need_a_cpu_build_of_torch()
    storage = Storage(tmp_path_factory.mktemp("images"))
    begun = time.monotonic()
    try:
        storage.make_base()
        print(f"\nbase made in {time.monotonic() - begun:.0f} s; layers stored by {storage.driver}")
        yield storage
    finally:
        storage.remove()


@pytest.fixture(scope="module", params=SERVICES)
def image(request, storage):
    image = Image(storage, request.param)
    yield image
    storage.run("podman", "rmi", "--force", image.name)
    storage.run("podman", "volume", "prune", "--force")


@pytest.fixture
def serve(image, tmp_path):
    """Starts the image as Compose does, with the image's command or another; ends it after the test."""
    started = []

    def start(*command, **environment):
        log, name = tmp_path / f"log-{len(started)}", f"{image.kind}-{len(started)}"
        options = image.deployed(**environment)
        started.append(image.storage.start(image.name, log, *command, name=name, options=options))
        return started[-1]

    yield start
    for container in started:
        container.stop()


@pytest.fixture
def right(image, photo):
    """The engine's own result for a click, outside of the container."""
    engine = Engine.from_weights("starter", "cpu", "fast", runtime={"cpu": "openvino", "gpu": "torch"}[image.kind])
    return engine.segment(LoadedImage.from_array(photo), [Click(0.4 * 451, 0.4 * 300)])


def test_every_step_of_the_dockerfile_is_in_the_image(image):
    steps = re.findall(r"^STEP (\d+)/(\d+): (\w+)", image.log, re.M)
    assert [name for *_, name in steps] == [name for name, _ in image.file.steps]
    assert [int(number) for number, *_ in steps] == list(range(1, len(image.file.steps) + 1))
    config = image.found["Config"]
    assert config["User"] == image.file.one("USER")
    assert config["WorkingDir"] == image.file.all("WORKDIR")[-1]
    assert config["Cmd"] == json.loads(image.file.one("CMD"))
    assert config["ExposedPorts"] == {f"{PORT}/tcp": {}}
    assert {f"{name}={value}" for name, value in image.file.pairs("ENV").items()} <= set(config["Env"])
    assert image.found["Healthcheck"]["Test"] == ["CMD", *image.file.health()]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["version"] == icmformer.__version__
    assert labels["revision"] == REVISION
    base = image.storage.inspect(labels["base.name"])
    print(
        f"\n{image.kind}: built in {image.seconds:.0f} s, {image.found['Size'] / 1e6:.0f} MB, "
        f"of which {base['Size'] / 1e6:.0f} MB are the base"
    )


def test_everything_installed_is_pinned(image):
    def name(text):
        return re.sub(r"[-_.]+", "-", text).lower()

    kind = next(command.split()[1] for command in image.file.commands() if command.startswith("docker/install.sh"))
    pins = (ROOT / f"constraints/{kind}.txt").read_text().splitlines()
    pinned = {name(pin.split("==")[0]): pin.split("==")[1] for pin in pins if "==" in pin}
    listed = json.loads(image.inside("pip", "--no-cache-dir", "list", "--format", "json"))
    installed = {name(found["name"]): found["version"] for found in listed}
    assert installed.pop("icmformer") == icmformer.__version__
    print(f"\n{image.kind}: torch {installed['torch']}, {len(installed)} packages")
    for found, version in installed.items():
        if found in ("pip", "wheel"):  # the base image brings them
            continue
        if not found.startswith(("nvidia-", "cuda-", "triton")):  # torch itself pins the parts of its CUDA
            assert version.split("+")[0] == pinned[found], found


def test_licences_are_inside(image):
    """The code's, that of what the weights were trained from, the weights' own."""
    found = image.inside("sh", "-c", "cd / && find usr/local/lib -path '*/icmformer-*.dist-info/licenses/*' -type f")
    names = {path.partition("/licenses/")[2] for path in found.split()}
    weights = {f"icmformer/assets/{name}/LICENSE" for name in ("starter", "starter-open")}
    assert names >= {"LICENSE", "NOTICE", "LICENSES/Apache-2.0.txt", *weights}


def test_a_server_can_write_to_three_folders_alone(image):
    assert image.inside("id", "-u").split() == ["1000"]
    search = "find / -xdev -not -type l -writable 2>/dev/null || true"
    assert set(image.inside("sh", "-c", search).split()) == WRITABLE
    without = set(image.storage.inside(image.name, "sh", "-c", search).split())
    assert without == {*WRITABLE, "/run/lock", "/var/tmp"}  # what it could write to if the root were not read-only
    for folder in WRITABLE:
        assert image.inside("sh", "-c", f"ls -A {folder} && touch {folder}/mine && rm {folder}/mine") == ""
    assert "Read-only file system" in image.inside("sh", "-c", "touch /var/tmp/mine 2>&1 || true")


def test_nothing_of_the_building_is_left(image):
    """Neither sources, nor what was written to root's home, nor this machine's pip settings."""
    left = image.storage.inside(image.name, "sh", "-c", "ls -A /src /root; pip config list", options=["--user=0"])
    base = image.found["Config"]["Labels"]["org.opencontainers.image.base.name"]
    before = image.storage.inside(base, "sh", "-c", "mkdir /src; ls -A /src /root; pip config list")
    assert left == before


def test_label_studio_gets_the_engines_mask(image, serve, studio, right):
    if free_port(PORT) != PORT:
        pytest.skip(f"port {PORT}, which the image's command names, is taken on this machine")
    # The server may write to its working folder: no code comes from there.
    names = ("click", "flask", "gunicorn", "icmformer", "ls_backend", "sitecustomize", "torch", "training")
    poison = "; ".join(f"echo 'raise SystemExit(\"{name} from the working folder\")' > {name}.py" for name in names)
    image.inside("sh", "-c", poison)
    address = f"http://127.0.0.1:{PORT}"
    for turn in ("first", "second"):
        server = serve(LABEL_STUDIO_URL=studio.url)
        seconds = server.wait_for(f"{address}/health")
        print(f"\n{image.kind}: Label Studio backend ready in {seconds:.1f} s, {turn} start")
        assert server.succeeds(image.found["Healthcheck"]["Test"][1:])
        version = ask(f"{address}/health")["model_version"]
        assert version.startswith("icmformer starter ")  # the weights are inside
        told = ask(f"{address}/setup", {"project": "1.1", "schema": BRUSH, "hostname": studio.url}, LOGIN)
        assert told["model_version"] == version
        (result,) = ask(f"{address}/predict", body(click(40, 40)), LOGIN)["results"]
        (region,) = result["result"]
        np.testing.assert_array_equal(mask_of(region), right.mask)
        assert result["score"] == pytest.approx(right.score, abs=1e-3)
        assert server.stop() == 0, server.log.read_text()
        assert "Traceback" not in server.log.read_text()
    assert studio.asked[0] == ("/data/upload/1/cat.png", "Token stand-in-token")


def test_cvat_gets_the_engines_mask(image, serve, photo, right):
    port = free_port(0)
    function = serve("icmformer", "serve", "cvat", "--host", "0.0.0.0", "--port", str(port))
    seconds = function.wait_for(f"http://127.0.0.1:{port}/__internal/health")
    print(f"\n{image.kind}: CVAT function ready in {seconds:.1f} s")
    reply = ask(f"http://127.0.0.1:{port}", payload(coded(photo), [(0.4 * 451, 0.4 * 300)]))
    (shape,) = reply["shapes"]
    assert shape["type"] == "mask"
    np.testing.assert_array_equal(decode_mask(shape["points"], image_width=451, image_height=300), right.mask)
    assert function.stop() == 0, function.log.read_text()


@pytest.mark.parametrize("image", ["gpu"], indirect=True)
def test_without_a_gpu_the_gpu_image_says_so_and_ends(image, serve):
    device = image.file.pairs("ENV")["ICMFORMER_DEVICE"]
    command = ("icmformer", "serve", "label-studio", "--port", str(free_port(0)))
    server = serve(*command, ICMFORMER_DEVICE=device)
    assert server.ended() not in (0, None)
    told = server.log.read_text()
    assert f"error: device '{device}' is not there" in told
    assert "Traceback" not in told
