"""Where weights are looked for: the names that files have, and the folders they are in."""

from __future__ import annotations

import os
from pathlib import Path

from icmformer.errors import WeightsError
from icmformer.settings import Settings
from icmformer.weights.pointer import is_store, read_pointer

CONFIG_FILE, MODEL_FILE, SUMS_FILE = "config.json", "model.safetensors", "SHA256SUMS"
RANDOM_PREFIX = "random:"
"""Before the name of a registered network: it with seeded random values."""
FILES = (".pth", ".safetensors", ".npz")
"""Suffixes of single files that have a name, which is the rest of theirs; of `.npz` there are only backbones."""
_BUNDLED = Path(__file__).parents[1] / "assets"


def search_path(settings: Settings | None = None) -> list[Path]:
    """Folders in which a name is looked for, in order: ICMFORMER_WEIGHTS_PATH, the cache, the package's own."""
    settings = settings or Settings.from_environment()
    return [*settings.weights_path, settings.cache_dir / "weights", _BUNDLED]


def available(settings: Settings | None = None) -> dict[str, Path]:
    """Weights and stores of versions on the search path by name, the first of each name."""
    names: dict[str, Path] = {}
    for folder in search_path(settings):
        for child in sorted(folder.glob("*"), key=_rank) if folder.is_dir() else ():
            if (child / CONFIG_FILE).is_file() or child.suffix in FILES or is_store(child):
                names.setdefault(child.stem if child.is_file() else child.name, child)
    return names


def _rank(child: Path) -> tuple[int, Path]:
    """Backbones come last: one does not hide weights of its name."""
    return child.suffix == ".npz", child


def locate(path: str | Path, settings: Settings | None = None) -> Path:
    """The file or folder that a name or path stands for; of a store of versions, the folder of the current one.

    Args:
        path: The name or path, see `find`.
        settings: Those of the environment, unless given.

    Raises:
        WeightsError: There is none.
    """
    found = find(path, settings)
    return found / read_pointer(found).version if is_store(found) else found


def find(path: str | Path, settings: Settings | None = None) -> Path:
    """The file, folder or store of versions that a name or path stands for.

    A string without a path separator is a name first: a folder in the working folder does not hide weights of its name
    on the search path. With one (`./starter`), and as a `Path`, it is a path first.

    Args:
        path: The name or path.
        settings: Those of the environment, unless given.

    Raises:
        WeightsError: There is none.
    """
    try:
        direct = Path(path).expanduser()  # of what is neither: TypeError
        there = direct.exists()
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(f"{str(path)[:200]!r} cannot be a path or name of weights: {error}") from error
    bare = isinstance(path, str) and not {os.sep, os.altsep} & set(path)
    if there and not bare:
        return direct
    settings = settings or Settings.from_environment()
    named = available(settings)
    if str(path) in named:
        return named[str(path)]
    if there:
        return direct
    folders = ", ".join(map(str, search_path(settings)))
    known = ", ".join(sorted(named)) or "none"
    raise WeightsError(
        f"no weights {str(path)!r}: no such path, and no such name (known: {known}) in {folders}; "
        f"give a path, set ICMFORMER_WEIGHTS_PATH, or use {RANDOM_PREFIX}VARIANT for untrained weights"
    )
