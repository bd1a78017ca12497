"""Reads what lies under deploy/."""

import re
import shutil
import subprocess
from functools import cache

import pytest
import yaml

from icmformer.settings import variables as variables_of
from ls_backend.settings import BackendSettings
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"


class _Strict(yaml.SafeLoader):
    """As safe_load, but a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read(name):
    """The only document of a file under deploy/."""
    (document,) = yaml.load_all((DEPLOY / name).read_text(), _Strict)
    return document


def variables(name):
    """NAME=VALUE lines of a file under deploy/."""
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


@cache
def build(folder):
    """What `kubectl kustomize` makes of a folder, by kind; each kind comes once."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed: what the overlays come to is not checked")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    objects = list(yaml.load_all(done.stdout, _Strict))
    by_kind = {item["kind"]: item for item in objects}
    assert len(by_kind) == len(objects)
    return by_kind


def pod(objects):
    """(pod's spec, its only container) of the deployment."""
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def pod_environment(objects):
    """What a pod's process finds, with stand-ins for secrets."""
    _, container = pod(objects)
    secret = {entry["name"]: f"stand-in-{entry['name'].lower()}" for entry in container["env"]}
    return {**objects["ConfigMap"]["data"], **secret}


def unknown_to_us(names):
    """Names that none of our programs reads."""
    command_line = (ROOT / "ls_backend/__main__.py").read_text()
    return {name for name in names if name not in variables_of(BackendSettings) and f'"{name}"' not in command_line}


def megabytes(text):
    """Kubernetes' and Compose's sizes, in MiB."""
    number, unit = re.fullmatch(r"(\d+)([MmGg])i?", str(text)).groups()
    return int(number) * {"m": 1, "g": 1024}[unit.lower()]
