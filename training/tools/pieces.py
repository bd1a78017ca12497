"""Large files in pieces, for ways that carry only small ones at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from icmformer.errors import ConfigError
from icmformer.weights.store import file_sha256

MANIFEST = "pieces.json"


def split(files: Sequence[Path], out: Path, most: int) -> list[Path]:
    """Cuts files into pieces `FILE.00`, `FILE.01`, ... and lists size and SHA-256 of each file in `pieces.json`.

    Args:
        files: To cut; their names must differ.
        out: Folder for the pieces.
        most: Bytes of a piece at most.

    Returns:
        The pieces in order.
    """
    if len({file.name for file in files}) < len(files):
        raise ConfigError("files to split must differ in name")
    out.mkdir(parents=True, exist_ok=True)
    pieces: list[Path] = []
    manifest = {}
    if (out / MANIFEST).is_file():  # of files that were split before
        manifest = {
            name: {"size": size, "sha256": sha256, "pieces": names}
            for name, (size, sha256, names) in _read_manifest(out).items()
        }
    for file in files:
        content = file.read_bytes()
        names = []
        for number, start in enumerate(range(0, max(len(content), 1), most)):
            piece = out / f"{file.name}.{number:02}"
            piece.write_bytes(content[start : start + most])
            names.append(piece.name)
            pieces.append(piece)
        manifest[file.name] = {"size": len(content), "sha256": file_sha256(file), "pieces": names}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return pieces


def join(folder: Path, to: Path) -> list[Path]:
    """Puts files together again whose pieces lie in a folder, and checks them.

    Args:
        folder: With `pieces.json` and the pieces that have arrived.
        to: Folder for the files; what is there already and right stays.

    Returns:
        The files that are whole now; others lack pieces.

    Raises:
        ConfigError: No list of pieces, or a file that is not what was split.
    """
    manifest = _read_manifest(folder)
    to.mkdir(parents=True, exist_ok=True)
    whole = []
    for name, (size, sha256, names) in manifest.items():
        file, pieces = to / Path(name).name, [folder / piece for piece in names]
        if not (file.is_file() and file.stat().st_size == size and file_sha256(file) == sha256):
            if not all(piece.is_file() for piece in pieces):
                continue
            part = file.with_name(file.name + ".part")
            with part.open("wb") as joined:
                for piece in pieces:
                    with piece.open("rb") as content:
                        shutil.copyfileobj(content, joined)
            if file_sha256(part) != sha256:
                part.unlink()
                raise ConfigError(f"{name} is not what was split: its SHA-256 differs; send its pieces again")
            part.replace(file)
        whole.append(file)
    return whole


def missing(folder: Path, whole: Sequence[Path]) -> list[str]:
    """Names of the pieces that have not arrived, of the files that are not whole yet; errors as in `join`."""
    names = {file.name for file in whole}
    return [
        piece
        for name, (_, _, pieces) in _read_manifest(folder).items()
        for piece in pieces
        if name not in names and not (folder / piece).is_file()
    ]


def _read_manifest(folder: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Size, SHA-256 and pieces of each file."""
    try:
        return {
            Path(name).name: (int(about["size"]), str(about["sha256"]), [Path(p).name for p in about["pieces"]])
            for name, about in json.loads((folder / MANIFEST).read_text()).items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{folder} holds no readable {MANIFEST}: {error}") from error
