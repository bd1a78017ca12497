"""Who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("icmformer", "training", "serverless", "ls_backend")
LAYERS = {
    "errors": 0,
    "memory": 0,
    "timings": 0,
    "types": 1,
    "settings": 1,
    "geometry": 2,
    "images": 2,
    "layers": 3,
    "models": 4,
    "weights": 5,
    "export": 5,
    "inference": 6,
    "serving": 7,
    "diagnosis": 8,
    "cli": 9,
    "__main__": 10,
}
TORCHLESS = (
    "icmformer/types.py",
    "icmformer/errors.py",
    "icmformer/settings.py",
    "icmformer/geometry.py",
    "icmformer/images/display.py",
    "icmformer/images/masks.py",
    "icmformer/images/reading.py",
    "ls_backend/addresses.py",
    "ls_backend/codec.py",
    "ls_backend/labelling_config.py",
    "ls_backend/config_tree.py",
    "ls_backend/task_image.py",
    "ls_backend/rle.py",
    "serverless/rle.py",
    "serverless/codec.py",
)


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            if node.module in FOLDERS:  # `from icmformer import cli` imports icmformer.cli
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_the_package_and_themselves(folder):
    for path in modules(folder):
        for name in imports(path):
            other = name.split(".")[0]
            assert other not in FOLDERS or other in ("icmformer", folder), f"{path} imports {name}"


def test_layers_of_the_package_point_one_way():
    for path in modules("icmformer"):
        relative = path.relative_to(ROOT / "icmformer")
        own = relative.parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "icmformer" and parts[1] in LAYERS:
                assert LAYERS[parts[1]] <= LAYERS[own], f"{path} ({own}) imports {name}"


@pytest.mark.parametrize("path", TORCHLESS)
def test_vocabulary_and_geometry_know_no_torch(path):
    assert not [name for name in imports(ROOT / path) if name.split(".")[0] == "torch"]


def test_every_module_has_a_layer():
    names = {
        p.name.removesuffix(".py")
        for p in (ROOT / "icmformer").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert names - {"__init__"} == set(LAYERS)


def test_vocabulary_images_and_geometry_load_no_torch():
    code = "import sys, icmformer, icmformer.geometry, icmformer.images.reading; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_importing_the_package_loads_nothing_foreign():
    foreign = (
        "timm",
        "torchvision",
        "flask",
        "nuclio_sdk",
        "label_studio_sdk",
        "label_studio_ml",
        "scipy",
        "matplotlib",
        "yaml",
        "openvino",
        "onnx",
    )
    code = f"import sys, icmformer; icmformer.Engine; print([m for m in {foreign!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
