"""Who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_without
from tests.conftest import ROOT

APPLICATIONS = ("training", "serverless", "ls_backend")
FOLDERS = ("icmformer", *APPLICATIONS)
LAYERS = {
    "version": 0,
    "applications": 0,
    "errors": 0,
    "memory": 0,
    "timings": 0,
    "runs": 0,
    "processor": 0,
    "disk": 1,
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
    "fetching": 8,
    "boxes": 8,
    "diagnosis": 8,
    "tryout": 8,
    "cli": 9,
    "__main__": 10,
}
ROOMS = {"data": 0, "simulated_annotator": 0, "evaluation": 1, "loop": 2, "finetuning": 3, "tools": 4}
"""Of `training`: a room imports those below it. Commands import any room, and no room a command."""
COMMANDS = 5
TORCHLESS = (
    "icmformer/types.py",
    "icmformer/errors.py",
    "icmformer/runs.py",
    "icmformer/settings.py",
    "icmformer/geometry.py",
    "icmformer/images/display.py",
    "icmformer/images/masks.py",
    "icmformer/images/reading.py",
    "icmformer/fetching/addresses.py",
    "icmformer/fetching/label_studio.py",
    "icmformer/serving/errors.py",
    "icmformer/serving/requests.py",
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
    """What a file imports, by the name that it has in the repository."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix(_BELOW) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = origin(node, path.relative_to(ROOT))
            if module in FOLDERS:  # `from icmformer import cli` imports icmformer.cli
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


_BELOW = "icmformer.applications."


def origin(node: ast.ImportFrom, path: Path) -> str:
    """The module, in full, that a file imports names from; the path is relative to the folder with all packages."""
    if not node.level:
        return str(node.module).removeprefix(_BELOW)
    package = path.parent.parts
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_the_package_and_themselves(folder):
    for path in modules(folder):
        for name in imports(path):
            other = name.split(".")[0]
            assert other not in FOLDERS or other in ("icmformer", folder), f"{path} imports {name}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_applications_import_their_own_modules_relatively_and_the_package_in_full(folder):
    """So an application runs under both of its names, with one copy of each of its modules."""
    for path in modules(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not node.level or folder in APPLICATIONS, f"{path}: relative import"
                assert node.level or str(node.module).split(".")[0] not in APPLICATIONS, f"{path}: {node.module}"
            elif isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {*APPLICATIONS}, path


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


def imported_modules(root: Path, folders: tuple[str, ...]) -> dict[str, set[str]]:
    """Which modules of the folders each imports, be it in a function or for types alone."""
    paths = {".".join(p.relative_to(root).with_suffix("").parts): p for f in folders for p in (root / f).rglob("*.py")}
    known = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                module = origin(node, path.relative_to(root))
                inner = {f"{module}.{alias.name}" for alias in node.names}
                graph[name] |= inner & known.keys() or {module}
        graph[name] &= known.keys()
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, in a row that ends where it begins; empty where there are none."""
    left = dict(graph)
    while ends := [name for name in left if not left[name] & left.keys()]:
        for name in ends:
            del left[name]
    row: list[str] = []
    name = min(left, default=None)
    while name is not None and name not in row:
        row.append(name)
        name = min(left[name] & left.keys())
    return [*row[row.index(name) :], name] if name else []


def test_no_modules_import_each_other_in_a_circle():
    found = circle(imported_modules(ROOT, (*FOLDERS, "demo")))
    assert not found, "a circle of imports: " + " -> ".join(found)


@pytest.mark.parametrize(
    "hidden",
    [
        "from p import a",
        "from . import a",
        "from .a import x",
        "def later():\n    import p.a",
        "if TYPE_CHECKING:\n    import p.a",
    ],
)
def test_circles_are_found_wherever_the_import_is(tmp_path, hidden):
    (tmp_path / "p").mkdir()
    for name, text in {
        "__init__": "",
        "a": "from p.b import x",
        "b": "import p.c",
        "c": hidden,
        "d": "import p.a",
    }.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    assert circle(imported_modules(tmp_path, ("p",))) == ["p.a", "p.b", "p.c", "p.a"]
    (tmp_path / "p" / "c.py").write_text("import json")
    assert circle(imported_modules(tmp_path, ("p",))) == []


def room_of(module: str) -> tuple[str, int]:
    """The room of a module of `training`, and its height."""
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    room = module.split(".")[1]
    runs = any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in ast.parse(path.read_text()).body)
    return (room, ROOMS[room]) if room in ROOMS and not runs else ("command", COMMANDS)


def test_rooms_of_the_training_point_one_way():
    graph = imported_modules(ROOT, ("training",))
    del graph["training"]
    for module, others in graph.items():
        room, height = room_of(module)
        for other in others:
            below, low = room_of(other)
            assert below == room or low < height, f"{module} ({room}) imports {other} ({below})"


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


def test_the_tests_on_a_gpu_need_none_of_the_optional_packages():
    program = """
import pytest
sys.exit(pytest.main(["--collect-only", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]))
"""
    assert "tests/gpu/test_compiled.py::test_cuda_graphs_are_replayed" in run_without(program)
