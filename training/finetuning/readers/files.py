"""The files of an export by the names that it has for them: of a folder, or of a zip."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from icmformer.errors import DiskFullError

from ...data.folders import IMAGE_ENDINGS, is_left_by_a_system
from .annotations import AnnotationError
from .reading_report import ReadingReport

Files = Mapping[str, Path]
"""Files by their path within the export, with forward slashes."""
ANNOTATION_SUFFIXES = frozenset({".json", ".xml", ""})  # target storages of Label Studio write names without ending


def folder_files(folder: Path, report: ReadingReport | None = None, without: Path | None = None) -> Files:
    """What a folder holds, in order, without hidden files and folders, which the report is told.

    Args:
        folder: With all its folders.
        report: Is told of hidden files.
        without: A folder that is left out: the run's own.

    Raises:
        AnnotationError: There is no such folder.
    """
    if not folder.is_dir():
        raise AnnotationError(f"there is no folder {folder}; name the folder of the photos with --images")
    left_out = without.resolve() if without is not None else None
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    inside = (path for path in paths if left_out is None or left_out not in path.resolve().parents)
    return _seen({path.relative_to(folder).as_posix(): path for path in inside}, report)


def unpacked(archive: Path, folder: Path, report: ReadingReport) -> Files:
    """Unpacks a zip, which anybody may have made, into a folder, which is emptied before.

    No name of the archive becomes a file's name: files are numbered, and keep a known ending alone.

    Raises:
        AnnotationError: A damaged or locked archive, or one that names files outside its folder.
        DiskFullError: There is no room for what it holds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        return _unpack(archive, folder, report)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{archive} cannot be unpacked: {error}") from error


def _unpack(archive: Path, folder: Path, report: ReadingReport) -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, Path] = {}
    with zipfile.ZipFile(archive) as file:
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
        if needed > free:
            raise DiskFullError(
                f"the disk is full: cannot unpack {archive} ({needed / 1e6:,.0f} MB) into {folder} "
                f"({free / 1e6:,.0f} MB free there); make room, or write elsewhere, and run the same command again"
            )
        by_name: dict[str, zipfile.ZipInfo] = {}
        for number, entry in enumerate(entries):
            name = entry.filename.replace("\\", "/")
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise AnnotationError(f"{archive} holds {entry.filename!r}, which lies outside its folder")
            if name in by_name:
                report.skip("a name that comes again in the zip", name, "the last file of that name is used")
            names[name], by_name[name] = folder / f"{number:06}{_known_suffix(name)}", entry
        kept = _seen(names, report)
        for name, target in kept.items():
            with file.open(by_name[name]) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    return dict(sorted(kept.items()))


def _known_suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in IMAGE_ENDINGS | ANNOTATION_SUFFIXES else ".other"


def _seen(names: Files, report: ReadingReport | None) -> Files:
    """Without hidden files, such as those that a Mac puts beside every file."""
    seen = {}
    for name, path in names.items():
        if any(is_left_by_a_system(part) for part in PurePosixPath(name).parts):
            if report is not None:
                report.skip("hidden file", name)
        else:
            seen[name] = path
    return seen
