"""The files of an export by the names that it has for them: of a folder, or of a zip."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from icmformer.errors import DiskFullError
from training.data.folders import IMAGE_ENDINGS, is_left_by_a_system
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.reading_report import ReadingReport

Files = Mapping[str, Path]
"""Files by their path within the export, with forward slashes."""
ANNOTATION_SUFFIXES = frozenset({".json", ".xml", ""})  # target storages of Label Studio write names without ending


def folder_files(folder: Path, report: ReadingReport | None = None) -> Files:
    """What a folder holds, in order, without hidden files and folders, which the report is told.

    Raises:
        AnnotationError: There is no such folder.
    """
    if not folder.is_dir():
        raise AnnotationError(f"there is no folder {folder}; name the folder of the photos with --images")
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return _seen(names, report)


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
        for entry in entries:
            name = entry.filename.replace("\\", "/")
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise AnnotationError(f"{archive} holds {entry.filename!r}, which lies outside its folder")
            names[name] = folder / f"{len(names):06}{_known_suffix(name)}"
        kept = _seen(names, report)
        for entry in entries:
            target = kept.get(entry.filename.replace("\\", "/"))
            if target is not None:
                with file.open(entry) as source, target.open("wb") as copy:
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
