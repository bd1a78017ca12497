"""Finds the photos that an export names."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from PIL import Image

from training.finetuning.readers.annotations import AnnotationError, BadAnnotationError

_SUFFIXES = frozenset(Image.registered_extensions())
_DRIVE = re.compile(r"^[A-Za-z]:")
NO_PHOTO = "no such photo"
SEVERAL_PHOTOS = "several photos of that name"


def name_parts(name: str) -> tuple[str, ...]:
    """A path of any system in parts, compared without regard to case, Unicode form, root, `.` and `..`."""
    plain = unicodedata.normalize("NFC", _DRIVE.sub("", name.strip()).replace("\\", "/")).casefold()
    return tuple(part for part in plain.split("/") if part not in ("", ".", ".."))


class PhotoFinder:
    """Finds photos by the paths that an export has for them.

    A photo is the file below the folder whose path has the longest tail in common with the export's, at least the file's
    name; case, Unicode forms, backslashes and what lies above the folder do not matter. A name without an image's
    ending (frames of a video in CVAT) also fits a file with one.

    Args:
        folder: Searched with all its folders.

    Raises:
        AnnotationError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise AnnotationError(f"there is no folder {folder}; name the folder of the photos with --images")
        self.folder = folder
        self._by_name: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
        self._by_stem: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.suffix.lower() not in _SUFFIXES or any(p.startswith((".", "__MACOSX")) for p in inside.parts):
                continue
            if path.is_file():
                parts = name_parts(inside.as_posix())
                self._by_name.setdefault(parts[-1], []).append((parts, path))
                self._by_stem.setdefault(PurePosixPath(parts[-1]).stem, []).append(((*parts[:-1], _stem(parts)), path))

    def paths(self) -> list[Path]:
        """All files that may be photos."""
        return [path for found in self._by_name.values() for _, path in found]

    def find(self, name: str, size: tuple[int, int] | None = None) -> Path:
        """The file of a photo.

        Args:
            name: Its path as the export has it.
            size: Height and width that it should have, which decides between files that fit the name equally well.

        Raises:
            BadAnnotationError: No file (`NO_PHOTO`), or several that nothing tells apart (`SEVERAL_PHOTOS`).
        """
        wanted = name_parts(name)
        if not wanted:
            raise BadAnnotationError(NO_PHOTO, "its name is empty")
        found = self._by_name.get(wanted[-1], [])
        if not found and PurePosixPath(wanted[-1]).suffix not in _SUFFIXES:
            found = self._by_stem.get(wanted[-1], [])
        if not found:
            raise BadAnnotationError(NO_PHOTO, f"not in {self.folder}")
        longest = max(_common_tail(parts, wanted) for parts, _ in found)
        best = [path for parts, path in found if _common_tail(parts, wanted) == longest]
        if len(best) > 1:  # no folders in the export's name, or not enough
            shallow = [path for parts, path in found if path in best and len(parts) == longest]
            best = shallow if len(shallow) == 1 else best
        if len(best) > 1 and size is not None:
            best = [path for path in best if fits(path, size)] or best
        if len(best) > 1 and len({_digest(path) for path in best}) > 1:
            told = " or ".join(path.relative_to(self.folder).as_posix() for path in best[:3])
            raise BadAnnotationError(SEVERAL_PHOTOS, f"it may be {told}")
        return best[0]


def _stem(parts: Sequence[str]) -> str:
    return PurePosixPath(parts[-1]).stem


def _common_tail(one: Sequence[str], other: Sequence[str]) -> int:
    number = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        number += 1
    return number


def fits(photo: Path, size: tuple[int, int]) -> bool:
    """Whether a file is an image of a height and width, as stored or turned; read from its header alone."""
    try:
        with Image.open(photo) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return size in ((height, width), (width, height))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def data_address(text: str) -> bytes | None:
    """The bytes of a `data:` address; None for anything else.

    Raises:
        BadAnnotationError: One that is damaged.
    """
    if not text[:5].lower() == "data:":
        return None
    head, comma, body = text.partition(",")
    if not comma:
        raise BadAnnotationError("a data: address that is damaged", "it has no comma")
    raw = unquote_to_bytes(body)
    if not head.lower().endswith(";base64"):
        return raw
    try:
        return base64.b64decode(b"".join(raw.split()))
    except (binascii.Error, ValueError) as error:
        raise BadAnnotationError("a data: address that is damaged", str(error)) from error
