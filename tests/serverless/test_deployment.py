"""What Nuclio, CVAT and Docker are told: the rules of their contracts, and one version everywhere."""

import base64
import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageSequence

import icmformer
from tests.conftest import ROOT

FILES = {"serverless/function-gpu.yaml": "gpu", "serverless/function.yaml": "cpu"}
READ_BY_CVAT = {"name", "type", "version", "spec", "min_pos_points", "min_neg_points", "help_message", "animated_gif"}
"""No startswith_box: it demands a box; and no startswith_box_optional: it is on at first, a click then does nothing."""


@pytest.fixture(params=FILES)
def function(request):
    return FILES[request.param], yaml.safe_load((ROOT / request.param).read_text())


def test_the_file_at_the_top_is_the_one_for_gpus():
    """It is `nuctl deploy --path . --file function.yaml` that needs it there; nuctl follows links."""
    assert (ROOT / "function.yaml").resolve() == ROOT / "serverless/function-gpu.yaml"


def test_cpu_and_gpu_differ_where_they_must_alone():
    cpu, gpu = (
        yaml.safe_load((ROOT / f"serverless/{name}").read_text()) for name in ("function.yaml", "function-gpu.yaml")
    )
    assert cpu["metadata"] == gpu["metadata"]
    assert cpu["spec"]["triggers"] == gpu["spec"]["triggers"]
    assert cpu["spec"]["platform"] == gpu["spec"]["platform"]


def test_cvat_can_read_the_annotations(function):
    annotations = function[1]["metadata"]["annotations"]
    assert set(annotations) == READ_BY_CVAT
    assert all(isinstance(value, str) for value in annotations.values())
    assert annotations["type"] == "interactor"
    assert int(annotations["version"]) >= 2
    assert annotations["spec"] == ""
    assert (annotations["min_pos_points"], annotations["min_neg_points"]) == ("0", "0")
    assert function[1]["metadata"]["name"] not in ("pth-facebookresearch-sam-vit-h",)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", function[1]["metadata"]["name"])


def test_the_picture_of_the_tooltip_is_the_one_in_the_docs_and_moves(function):
    annotations = function[1]["metadata"]["annotations"]
    kind, _, coded = annotations["animated_gif"].partition(",")
    assert kind == "data:image/webp;base64"
    content = base64.b64decode(coded, validate=True)
    assert content == (ROOT / "docs/figures/cvat_help.webp").read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.width <= 320
        frames = {frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(picture)}
        assert len(frames) >= 5
        assert picture.info["loop"] == 0
    # nuctl hands them to Docker in one command line: of Linux's 128 KiB, and of Windows' 32 KiB
    assert len(json.dumps(annotations)) < 20 << 10
    assert "'" not in "".join(annotations.values())


def test_what_annotators_are_told_is_what_the_page_does(function):
    """Holding Ctrl holds no request back since CVAT 2.16.3; the button Block does."""
    told = function[1]["metadata"]["annotations"]["help_message"]
    assert "Block" in told
    docs = (ROOT / "docs/cvat.md").read_text()
    for text in (told, docs):
        assert "hold ctrl" not in text.lower()
    for text in ("*Block*", "Connection refused", "read timeout=120", "is two clicks", "saves the earlier preview"):
        assert text in docs
    assert "part in view" not in docs


def test_nuclio_gets_what_it_needs(function):
    kind, content = function
    spec = content["spec"]
    version = spec["runtime"].removeprefix("python:")
    assert version in ("3.9", "3.10", "3.11", "3.12")
    base = re.search(r"^FROM python:(\d+\.\d+)\.\d+-", (ROOT / f"Dockerfile.{kind}").read_text(), re.M)
    assert base[1] == version
    assert spec["build"]["baseImage"] == f"icmformer:{icmformer.__version__}-{kind}"
    assert spec["build"]["noBaseImagesPull"] is True
    assert spec["build"]["directives"]["preCopy"] == [{"kind": "USER", "value": "root"}]
    (trigger,) = spec["triggers"].values()
    assert trigger["kind"] == "http"
    assert trigger["numWorkers"] >= 1
    assert "maxWorkers" not in trigger
    assert trigger["workerAvailabilityTimeoutMilliseconds"] < 120_000
    assert trigger["attributes"]["maxRequestBodySize"] >= 128 << 20
    assert 2 * float(spec["eventTimeout"].removesuffix("s")) <= 120  # it fires late; CVAT waits 120 s
    assert spec["platform"]["attributes"] == {
        "restartPolicy": {"name": "always", "maximumRetryCount": 3},
        "mountMode": "volume",
    }
    limits = spec.get("resources", {}).get("limits", {})
    assert limits == ({"nvidia.com/gpu": 1} if kind == "gpu" else {})
    assert {"name": "ICMFORMER_DEVICE", "value": {"gpu": "cuda", "cpu": "cpu"}[kind]} in spec["env"]


def test_the_handler_can_be_found_where_nuclio_looks(function):
    spec = function[1]["spec"]
    pattern = re.match(r"^([\w|-]+(\.[\w|-]+)*):(\w+)$", spec["handler"])  # Nuclio's own
    module, name = pattern.group(1), pattern.group(3)
    found = __import__(module)
    for part in module.split(".")[1:]:
        found = getattr(found, part)
    assert callable(getattr(found, name))
    assert callable(found.init_context)


def test_every_field_that_could_be_got_wrong_says_why():
    for name in FILES:
        text = (ROOT / name).read_text()
        for field in ("version:", "runtime:", "handler:", "eventTimeout:", "numWorkers:", "maxRequestBodySize:"):
            before = text[: text.index(f" {field}")].rstrip().splitlines()[-1]
            assert before.strip().startswith("#"), f"{name}: {field}"


STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
  "docker info") echo "$RUNTIMES"; for line in $(seq 2000); do echo "more of it, line $line"; done ;;
  "docker network"*) exit "$NO_NETWORK" ;;
  "docker image"*) exit "$NO_IMAGE" ;;
  "nuctl deploy"*) cp "$5/function.yaml" "$CALLS.yaml" ;;
  "nuctl get project"*) exit "$NO_PROJECT" ;;
esac
"""


@pytest.fixture
def deploy(tmp_path):
    """Runs deploy.sh where docker and nuctl only note that they were called."""
    for tool in ("docker", "nuctl"):
        (tmp_path / tool).write_text(STAND_IN)
        (tmp_path / tool).chmod(0o755)

    def run(*options, runtimes="runc nvidia", path=None, **changes):
        environment = {
            "PATH": path or f"{tmp_path}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "RUNTIMES": runtimes,
            "NO_NETWORK": "0",
            "NO_IMAGE": "0",
            "NO_PROJECT": "1",
            **changes,
        }
        done = subprocess.run(
            ["bash", str(ROOT / "serverless/deploy.sh"), *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        return done, [call for call in calls if not re.match(r"docker (info|network)|nuctl get project", call)]

    return run


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_deploying_builds_and_deploys_in_this_order(deploy, kind):
    done, calls = deploy(kind, "--env", "ICMFORMER_PROFILE=exact", "--network", "other")
    assert done.returncode == 0, done.stderr
    build, project, function, get = calls
    assert build.startswith(
        f"docker build --file {ROOT}/Dockerfile.{kind} --tag icmformer:{icmformer.__version__}-{kind}"
    )
    assert project == "nuctl create project cvat --platform local"
    assert function.startswith("nuctl deploy --project-name cvat --path ")
    assert "--platform local --env ICMFORMER_PROFILE=exact --platform-config" in function
    assert '{"attributes": {"network": "other"}}' in function
    assert get == "nuctl get function icmformer --platform local"
    assert "Deployed" in done.stdout


@pytest.mark.parametrize(
    ("options", "changes", "text"),
    [
        ((), {}, "say cpu or gpu"),
        (("cpu", "--fast"), {}, "unknown option: --fast"),
        (("cpu", "gpu"), {}, "not both"),
        (("cpu", "--env", "FOO"), {}, "--env needs NAME=VALUE"),
        (("cpu", "--env"), {}, "--env needs NAME=VALUE"),
        (("cpu", "--port"), {}, "--port needs a number from 1024 to 65535"),
        (("cpu", "--port", "80"), {}, "--port needs a number from 1024 to 65535"),
        (("cpu", "--port", "69999"), {}, "--port needs a number from 1024 to 65535"),
        (("cpu",), {"NO_NETWORK": "1"}, "there is no Docker network cvat_cvat"),
        (("gpu",), {"runtimes": "runc"}, "no nvidia runtime"),
        (("cpu", "--no-build"), {"NO_IMAGE": "1"}, "leave --no-build out"),
        (("cpu",), {"path": "/usr/bin:/bin"}, "there is no docker on PATH"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_built(deploy, options, changes, text):
    done, calls = deploy(*options, **changes)
    assert done.returncode == 1
    assert text in done.stderr
    assert [call for call in calls if not call.startswith("docker image")] == []


def test_what_is_there_is_not_made_again(deploy):
    done, calls = deploy("cpu", "--no-build", NO_PROJECT="0", TORCH_INDEX_URL="x")
    assert done.returncode == 0, done.stderr
    assert [call.split()[1] for call in calls if not call.startswith("docker image")] == ["deploy", "get"]


@pytest.mark.parametrize(("kind", "name"), [("cpu", "function.yaml"), ("gpu", "function-gpu.yaml")])
def test_boxes_and_a_port_that_stays_are_put_into_the_file_on_request(deploy, tmp_path, kind, name):
    """Nothing else of it changes, and the file of the checkout not at all."""
    before = (ROOT / "serverless" / name).read_text()
    plain = yaml.safe_load(before)
    assert deploy(kind, "--no-build")[0].returncode == 0
    assert yaml.safe_load((tmp_path / "calls.yaml").read_text()) == plain
    assert deploy(kind, "--no-build", "--box", "--port", "32100")[0].returncode == 0
    plain["metadata"]["annotations"]["startswith_box_optional"] = "true"
    plain["spec"]["triggers"]["http"]["attributes"]["port"] = 32100
    assert yaml.safe_load((tmp_path / "calls.yaml").read_text()) == plain
    assert (ROOT / "serverless" / name).read_text() == before


def test_another_base_image_is_deployed_without_building(deploy, tmp_path):
    done, calls = deploy("gpu", "--image", "registry.example/team/icmformer:7")
    deployed = yaml.safe_load((tmp_path / "calls.yaml").read_text())
    assert deployed["spec"]["build"]["baseImage"] == "registry.example/team/icmformer:7"
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls if "build" in call]
    assert "docker image inspect registry.example/team/icmformer:7" in calls


def test_the_index_of_torch_reaches_the_image(deploy):
    _, calls = deploy("cpu", TORCH_INDEX_URL="http://index.example/cpu")
    assert "--build-arg TORCH_INDEX_URL=http://index.example/cpu" in calls[0]


def test_a_dry_run_runs_nothing(deploy):
    done, calls = deploy("cpu", "--dry-run")
    assert done.returncode == 0
    assert not calls
    assert "+ nuctl deploy" in done.stdout
    assert "Deployed" not in done.stdout


def test_a_dry_run_shows_the_file_that_it_speaks_of_and_keeps_it(deploy, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    plain, changed = (
        deploy("cpu", "--dry-run", *more, TMPDIR=str(kept))[0] for more in ((), ("--box", "--port", "32100"))
    )
    assert "function.yaml is function.yaml as it is" in plain.stdout
    assert '>     startswith_box_optional: "true"' in changed.stdout
    assert "port: 32100" in changed.stdout
    named = re.search(r"nuctl deploy .*--file (\S+)", changed.stdout)[1]
    assert yaml.safe_load(Path(named).read_text())["metadata"]["annotations"]["startswith_box_optional"] == "true"
