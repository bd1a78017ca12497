"""Writes what an installed environment is made of as CycloneDX JSON: Python packages, and weights with sum and licence.

    python docker/sbom.py --python .venv/bin/python -o sbom.json
    docker run --rm -v "$PWD:/out" --user root --entrypoint python IMAGE /out/docker/sbom.py -o /out/sbom.json

The packages are told by cyclonedx-py, which comes from PyPI into an environment of its own and is gone afterwards: the
environment that is described stays as it is. Needs Python's own library alone. What is not Python (the distribution's
packages of an image) is not listed: a scanner of images does that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

TOOL = "cyclonedx-bom==7.5.0"
_ASSETS = "import icmformer, pathlib; print(pathlib.Path(icmformer.__file__).parent / 'assets')"
_VERSION = "import icmformer; print(icmformer.__version__)"
_HEADING = re.compile(r"^##+ .*licen[cs]e", re.IGNORECASE)


class SbomError(Exception):
    """Something that is needed is not there; the text says what."""


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Writes a CycloneDX SBOM of an installed environment.")
    parser.add_argument("--python", default=sys.executable, help="the environment's Python (the one that runs this)")
    parser.add_argument("--tool", help="a cyclonedx-py that is there; without it one is installed for the moment")
    parser.add_argument(
        "--weights", action="append", default=[], type=Path, help="another folder of weights; repeatable"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("sbom.json"), help="file to write (sbom.json)")
    args = parser.parse_args(argv)
    try:
        document = packages(args.python, args.tool)
        assets = Path(_asked(args.python, _ASSETS))
        folders = [*sorted(path.parent for path in assets.glob("*/SHA256SUMS")), *args.weights]
        add_weights(document, [weights_component(folder) for folder in folders])
        document["metadata"]["component"]["version"] = _asked(args.python, _VERSION)
        args.output.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    except (SbomError, OSError, ValueError, KeyError) as error:
        print(f"error: no SBOM was written: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(document['components'])} components, {len(folders)} of them weights")
    return 0


def packages(python: str, tool: str | None) -> dict[str, Any]:
    """The document that cyclonedx-py makes of an environment.

    Raises:
        SbomError: The tool could not be installed, or did not do it.
    """
    with tempfile.TemporaryDirectory(prefix="sbom-") as folder:
        if tool is None:
            venv.create(Path(folder) / "tool", with_pip=True)
            scripts = Path(folder) / "tool" / "bin"
            _run([str(scripts / "python"), "-m", "pip", "install", "--quiet", TOOL], f"{TOOL} cannot be installed")
            tool = str(scripts / "cyclonedx-py")
        project = Path(__file__).parents[1] / "pyproject.toml"
        about = ["--pyproject", str(project)] if project.is_file() else []
        out = Path(folder) / "packages.json"
        command = [tool, "environment", "--output-reproducible", *about, "-o", str(out), python]
        _run(command, "cyclonedx-py did not describe the environment")
        document: dict[str, Any] = json.loads(out.read_text())
    document["metadata"].setdefault("component", {"name": "icmformer", "type": "application", "bom-ref": "icmformer"})
    return document


def weights_component(folder: Path) -> dict[str, Any]:
    """A folder of weights as a component; its files are checked against their sums.

    Raises:
        SbomError: A file is missing, or is another than its sum says.
    """
    lines = [line.split(maxsplit=1) for line in (folder / "SHA256SUMS").read_text().splitlines() if line]
    sums = {name: expected for expected, name in lines}
    for name, expected in sums.items():
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise SbomError(f"{folder / name} is missing, or is another file than SHA256SUMS says")
    config = json.loads((folder / "config.json").read_text())
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"weights:{config['name']}",
        "name": config["name"],
        "version": sums["model.safetensors"][:8],
        "hashes": [{"alg": "SHA-256", "content": sums["model.safetensors"]}],
        "properties": [{"name": "icmformer:config-sha256", "value": sums["config.json"]}],
    }
    family = config.get("network", {}).get("family")
    if family:
        component["modelCard"] = {"modelParameters": {"task": "interactive segmentation", "modelArchitecture": family}}
    card = folder / "MODEL_CARD.md"
    terms = _licence(card.read_text()) if card.is_file() else ""
    component["licenses"] = [{"license": {"name": "see the model card" if terms else "not stated"}}]
    if terms:
        component["licenses"][0]["license"]["text"] = {"contentType": "text/markdown", "content": terms}
    return component


def add_weights(document: dict[str, Any], weights: list[dict[str, Any]]) -> None:
    """Puts weights beside the packages, as what the product depends on."""
    document["components"] = [*document.get("components", []), *weights]
    root = document["metadata"]["component"]["bom-ref"]
    dependencies = document.setdefault("dependencies", [])
    own = next((entry for entry in dependencies if entry["ref"] == root), None)
    if own is None:
        own = {"ref": root}
        dependencies.append(own)
    own["dependsOn"] = sorted({*own.get("dependsOn", []), *(model["bom-ref"] for model in weights)})
    dependencies.extend({"ref": model["bom-ref"]} for model in weights)


def _licence(card: str) -> str:
    """The section of a model card that speaks of licences."""
    found: list[str] = []
    for line in card.splitlines():
        if line.startswith("#"):
            if found:
                break
            if _HEADING.match(line):
                found.append(line.lstrip("# "))
        elif found:
            found.append(line)
    return "\n".join(found).strip()


def _asked(python: str, code: str) -> str:
    return _run([python, "-c", code], f"{python} has no icmformer").strip()


def _run(command: list[str], otherwise: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir(), env=environment
        )
    except OSError as error:
        raise SbomError(f"{otherwise}: {error}") from error
    if done.returncode:
        raise SbomError(f"{otherwise}: {' '.join(done.stderr.split())[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
