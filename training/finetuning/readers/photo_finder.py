"""Finds the photos that an export names."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from PIL import Image

from training.data.folders import IMAGE_ENDINGS
from training.finetuning.readers.annotations import BadAnnotationError
from training.finetuning.readers.files import Files, folder_files

_DRIVE = re.compile(r"^[A-Za-z]:")
NO_PHOTO = "no such photo"
SEVERAL_PHOTOS = "several photos of that name"


def name_parts(name: str) -> tuple[str, ...]:
    """A path of any system in parts, compared without regard to case, Unicode form, root, `.` and `..`."""
    plain = unicodedata.normalize("NFC", _DRIVE.sub("", name.strip()).replace("\\", "/")).casefold()
    return tuple(part for part in plain.split("/") if part not in ("", ".", ".."))


class PhotoFinder:
    """Finds photos by the paths that an export has for them.

    A photo is the file below the folder whose path has the longest tail in common with the export's, at least the
    file's name; case, Unicode forms, backslashes and what lies above the folder do not matter. A name without an
    image's ending (frames of a video in CVAT) also fits a file with one.

    Args:
        folder: Searched with all its folders, or what the photos' place is called in messages, if `files` is given.
        files: Files by their names within the export, instead of those of the folder.

    Raises:
        AnnotationError: There is no such folder.
    """

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self.folder = folder
        self._by_name: dict[str, list[_Known]] = {}
        self._by_stem: dict[str, list[_Known]] = {}
        for name, path in (folder_files(folder) if files is None else files).items():
            parts = name_parts(name)
            stem = PurePosixPath(parts[-1]).stem if parts else ""
            if parts and PurePosixPath(parts[-1]).suffix in IMAGE_ENDINGS:
                self._by_name.setdefault(parts[-1], []).append(_Known(parts, name, path))
                self._by_stem.setdefault(stem, []).append(_Known((*parts[:-1], stem), name, path))

    def paths(self) -> Iterator[tuple[str, Path]]:
        """All files that may be photos, by their names."""
        for found in self._by_name.values():
            yield from ((known.name, known.path) for known in found)

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
        if not found and PurePosixPath(wanted[-1]).suffix not in IMAGE_ENDINGS:
            found = self._by_stem.get(wanted[-1], [])
        if not found:
            raise BadAnnotationError(NO_PHOTO, f"not in {self.folder}")
        longest = max(common_tail(known.parts, wanted) for known in found)
        best = [known for known in found if common_tail(known.parts, wanted) == longest]
        if len(best) > 1:  # no folders in the export's name, or not enough
            whole = [known for known in best if len(known.parts) == longest]
            best = whole if len(whole) == 1 else best
        if len(best) > 1 and size is not None:
            best = [known for known in best if fits(known.path, size)] or best
        if len(best) > 1 and len({_digest(known.path) for known in best}) > 1:
            raise BadAnnotationError(SEVERAL_PHOTOS, f"it may be {' or '.join(known.name for known in best[:3])}")
        return best[0].path


@dataclass(frozen=True)
class _Known:
    """A file: the parts of its name, the name, and where it is."""

    parts: tuple[str, ...]
    name: str
    path: Path


def common_tail(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts at the end of two paths are equal."""
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
    if text[:5].lower() != "data:":
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
