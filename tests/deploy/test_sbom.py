"""What is shipped is listed: every package that is installed, and the weights with their sum and terms."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "docker" / "sbom.py"
ASSETS = ROOT / "icmformer" / "assets"


def run(*options):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.slow
def test_an_sbom_lists_what_is_installed_and_the_weights(tmp_path):
    """Fetches the tool from the package index."""
    relative = sys.executable
    done = run("--python", relative, "-o", str(tmp_path / "sbom.json"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "sbom.json").read_text()
    document = json.loads(text)
    assert document["bomFormat"] == "CycloneDX"
    root = document["metadata"]["component"]
    assert (root["name"], root["version"]) == ("icmformer", importlib.metadata.version("icmformer"))
    listed = {part["name"].lower().replace("_", "-"): part for part in document["components"]}
    for name in ("torch", "numpy", "pillow", "flask", "gunicorn", "safetensors", "opencv-python-headless"):
        assert listed[name]["version"] == importlib.metadata.version(name)
        assert listed[name]["purl"].startswith(f"pkg:pypi/{name}@")
    installed = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
    assert installed - {"icmformer"} <= set(listed)
    for name, terms in (("starter", "Commercial use"), ("starter-open", "ImageNet")):
        weights = listed[name]
        assert weights["type"] == "machine-learning-model"
        sum_of_file = hashlib.sha256((ASSETS / name / "model.safetensors").read_bytes()).hexdigest()
        assert weights["hashes"] == [{"alg": "SHA-256", "content": sum_of_file}]
        assert terms in weights["licenses"][0]["license"]["text"]["content"]
        assert any(f"weights:{name}" in entry.get("dependsOn", []) for entry in document["dependencies"])
    assert str(ROOT) not in text


def test_an_sbom_that_cannot_be_made_is_told_and_not_written(tmp_path):
    out = tmp_path / "sbom.json"
    done = run("--tool", str(tmp_path / "nothing"), "-o", str(out))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no SBOM was written: cyclonedx-py did not describe")
    assert not out.exists()


def test_weights_that_are_not_those_of_their_sums_are_not_listed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import sbom

    for name in ("config.json", "SHA256SUMS", "MODEL_CARD.md"):
        (tmp_path / name).write_bytes((ASSETS / "starter" / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"another")
    with pytest.raises(sbom.SbomError, match=r"model\.safetensors is missing, or is another"):
        sbom.weights_component(tmp_path)
    assert sbom.weights_component(ASSETS / "starter")["name"] == "starter"
