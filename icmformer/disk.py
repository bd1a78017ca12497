"""Writing that holds: where there is no room left, through a power cut, and with others who write to the same place."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icmformer.errors import DiskFullError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than the limit on file sizes allows (`ulimit -f`, or the file system's)",
}
_NUMBER = re.compile(r"\(os error (\d+)\)|\bcode: (\d+)\b|\[Errno (\d+)\]")


def no_room(error: BaseException | None) -> int | None:
    """The system's error number where an error says that there was no room to write, be it wrapped in others.

    torch hides it in a RuntimeError of its own, safetensors and `shutil.copytree` in a text.
    """
    for _ in range(8):
        if error is None:
            return None
        if isinstance(error, OSError) and error.errno in _REASONS:
            return error.errno
        in_text = isinstance(error, shutil.Error) or type(error).__name__ == "SafetensorError"
        if in_text and (found := _NUMBER.search(str(error))):
            number = int(found[1] or found[2] or found[3])
            return number if number in _REASONS else None
        error = error.__cause__ or error.__context__
    return None


def disk_full(error: BaseException, place: Path | None = None) -> DiskFullError | None:
    """The typed error for one that says that there was no room to write; None for others.

    Args:
        error: What was raised.
        place: Folder or file that was written, where the error does not name it itself.
    """
    if isinstance(error, DiskFullError):
        return error
    number = no_room(error)
    if number is None:
        return None
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)  # of a copy, the second is written
    where = Path(named) if isinstance(named, str) else place
    told = f"{_REASONS[number]}: cannot write to {where}" if where else _REASONS[number]
    free = _free(where) if where else None
    if free is not None:
        told += f" ({free:,.0f} MB free there)"
    return DiskFullError(f"{told}; make room, or write elsewhere, and run the same command again")


def _free(place: Path) -> float | None:
    """Megabytes that are free where a file or folder is or would be."""
    for folder in (place, *place.absolute().parents):
        try:
            return shutil.disk_usage(folder).free / 1e6
        except OSError:
            continue
    return None


@contextmanager
def writing(place: Path, *, temporary: tuple[Path, ...] = ()) -> Iterator[None]:
    """Within the block, what fails for want of room becomes a `DiskFullError` that names the place.

    Args:
        place: Folder or file that is written.
        temporary: Files to remove where the block fails, whatever the reason.
    """
    try:
        yield
    except BaseException as error:
        for path in temporary:
            path.unlink(missing_ok=True)
        full = disk_full(error, place)
        if full is None or full is error:
            raise
        raise full from error


@contextmanager
def holding(file: Path) -> Iterator[None]:
    """Holds the lock on a file, which is made; it ends with the process at the latest. On Windows there is none."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def flush(path: Path) -> None:
    """Has a file's content, or the names in a folder, on the disk before what relies on it is written."""
    if os.name == "nt" and path.is_dir():  # where folders cannot be opened
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
