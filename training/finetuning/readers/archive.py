"""Unpacks an export's zip, which anybody may have made."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

from training.finetuning.readers.annotated_image import AnnotationError


def unpack_zip(archive: Path, folder: Path) -> None:
    """Unpacks a zip into a folder, which is emptied before.

    Raises:
        AnnotationError: A zip that is damaged or locked, larger than the disk, or leads out of the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _extract(archive, folder)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise AnnotationError(f"{archive} cannot be unpacked: {error}") from error


def _extract(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        folder.parent.mkdir(parents=True, exist_ok=True)
        needed, free = sum(entry.file_size for entry in file.infolist()), shutil.disk_usage(folder.parent).free
        if needed > free:
            raise AnnotationError(f"{archive} unpacks to {needed / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f}")
        for entry in file.infolist():
            if Path(entry.filename).is_absolute() or ".." in Path(entry.filename).parts:
                raise AnnotationError(f"{archive} holds {entry.filename!r}, which leads out of its folder")
        file.extractall(folder)
