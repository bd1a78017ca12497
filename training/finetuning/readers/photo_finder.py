"""Finds the photos that an export names."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from PIL import Image

from ...data.folders import IMAGE_ENDINGS
from .annotations import BadAnnotationError
from .files import Files, folder_files
from .reading_report import ReadingReport

_DRIVE = re.compile(r"^[A-Za-z]:")
SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Folders of parts of a data set, in which photos of one name are different ones."""
NO_PHOTO = "no such photo"
SEVERAL_PHOTOS = "several photos of that name"
OTHER_FOLDER = "photo found in another folder than its path has"
BY_SIZE = "photo of several of that name, told by its size"


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
        report: Is told of photos that are found in spite of other folders in their path, or by their size.

    Raises:
        AnnotationError: There is no such folder.
    """

    def __init__(self, folder: Path, files: Files | None = None, report: ReadingReport | None = None) -> None:
        self.folder = folder
        self._report = ReadingReport() if report is None else report
        self._by_name: dict[str, list[_Known]] = {}
        self._by_stem: dict[str, list[_Known]] = {}
        self._parts: dict[Path, tuple[str, ...]] = {}
        for name, path in (folder_files(folder) if files is None else files).items():
            parts = name_parts(name)
            if parts and PurePosixPath(parts[-1]).suffix in IMAGE_ENDINGS:
                stem = PurePosixPath(parts[-1]).stem
                self._by_name.setdefault(parts[-1], []).append(_Known(parts, name, path))
                self._by_stem.setdefault(stem, []).append(_Known((*parts[:-1], stem), name, path))
                self._parts[path] = parts

    def paths(self) -> Iterator[tuple[str, Path]]:
        """All files that may be photos, by their names."""
        for found in self._by_name.values():
            yield from ((known.name, known.path) for known in found)

    def beside(self, folder: PurePosixPath) -> PhotoFinder:
        """A finder of the photos below a folder of these, if any are there; else this one."""
        above = name_parts(folder.as_posix())
        own = {n: p for n, p in self.paths() if self._parts[p][: len(above)] == above}
        return PhotoFinder(self.folder / folder, own, self._report) if own else self

    def parts(self, file: Path) -> tuple[str, ...]:
        """The parts of a file's name within the export; none of a file that is not from here."""
        return self._parts.get(file, ())

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
        whole = [known for known in best if longest in (len(known.parts), len(wanted))]
        if not whole:  # both paths have other folders
            if {wanted[-longest - 1], best[0].parts[-longest - 1]} <= SPLIT_FOLDERS:
                raise BadAnnotationError(NO_PHOTO, f"{best[0].name} is another part's")
            if longest == 1 and len(found) > 1:
                raise BadAnnotationError(NO_PHOTO, f"{len(found)} files of that name are in other folders")
            self._report.decide(OTHER_FOLDER, name, best[0].name)
        best = whole or best
        if len(best) > 1:  # no folders in the export's name, or not enough
            at_top = [known for known in best if len(known.parts) == longest]
            best = at_top if len(at_top) == 1 else self._of_size(best, name, size)
        if len(best) > 1 and self._differ(best):
            raise BadAnnotationError(SEVERAL_PHOTOS, f"it may be {' or '.join(known.name for known in best[:3])}")
        return best[0].path

    def _of_size(self, files: list[_Known], name: str, size: tuple[int, int] | None) -> list[_Known]:
        """Those that have the size, if any has."""
        fitting = [known for known in files if size is not None and fits(known.path, size)]
        if len(fitting) == 1:
            self._report.decide(BY_SIZE, name, fitting[0].name)
        return fitting or files

    @staticmethod
    def _differ(files: Sequence[_Known]) -> bool:
        """Whether not all files are copies of one."""
        sizes = {known.path.stat().st_size for known in files}
        if len(sizes) > 1:
            return True
        first = _digest(files[0].path)
        return any(_digest(known.path) != first for known in files[1:])


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
    facts = photo.stat()
    height, width = _size(photo, facts.st_mtime_ns, facts.st_size)
    return size in ((height, width), (width, height))


@functools.lru_cache(maxsize=1 << 16)
def _size(photo: Path, _time: int, _bytes: int) -> tuple[int, int]:
    try:
        with Image.open(photo) as image:
            return image.size[1], image.size[0]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0


def _digest(path: Path) -> bytes:
    facts = path.stat()
    return _cached_digest(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=1 << 16)
def _cached_digest(path: Path, _time: int, _bytes: int) -> bytes:
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
