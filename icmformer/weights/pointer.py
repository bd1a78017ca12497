"""Which version of a store of weights is the current one: the small file `current` in the store's folder.

It is replaced as a whole, never written in place: who reads it sees the old version or the new one, and takes no lock.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from icmformer.errors import WeightsError

CURRENT_FILE, LOCK_FILE = "current", ".versions.lock"
_CONFIG = "config.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_TRIES, _PAUSE = 3, 0.01
"""How often the file is read, and seconds between: network file systems and Windows may refuse one while it is being
replaced."""


@dataclass(frozen=True)
class Pointer:
    """The current version of a store. Two are equal only if nobody promoted or rolled back in between.

    Attributes:
        version: Its name.
        since: When it became current, UTC, as ISO 8601 has it.
        before: The versions that were current before, oldest first; `rollback` goes back along them.
    """

    version: str
    since: str
    before: tuple[str, ...] = ()


def is_version_name(name: str) -> bool:
    """Whether a version may have this name: safe as a folder's on any system."""
    return _NAME.fullmatch(name) is not None and not name.endswith(".") and name.lower() != CURRENT_FILE


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of weights with versions, be it one in which none is current yet."""
    if (folder / CURRENT_FILE).is_file():
        return True
    return (folder / LOCK_FILE).is_file() and not (folder / _CONFIG).exists()


def version_of(folder: Path) -> str | None:
    """The name of the version of a store that a folder is; None for any other folder."""
    folder = Path(os.path.abspath(folder))  # of `.`, too
    return folder.name if is_version_name(folder.name) and is_store(folder.parent) else None


def read_pointer(folder: Path) -> Pointer:
    """The current version of a store, which is there.

    Raises:
        WeightsError: No store, a damaged pointer, or one to a version that is not there.
    """
    pointer = recorded_pointer(folder)
    while not (folder / pointer.version / _CONFIG).is_file():
        seen, pointer = pointer, recorded_pointer(folder)
        if seen == pointer:  # else another one became current, and this one was deleted
            file = folder / CURRENT_FILE
            raise WeightsError(f"{file} names the version {pointer.version!r}, which is not in {folder}")
    return pointer


def recorded_pointer(folder: Path) -> Pointer:
    """What a store's file says, be the version that it names there or not.

    Raises:
        WeightsError: No store, or a damaged pointer.
    """
    file = folder / CURRENT_FILE
    try:
        found = json.loads(_text(file))
        pointer = Pointer(found["version"], str(found.get("since", "")), tuple(found.get("before", ())))
        names = [pointer.version, *pointer.before]
        if not all(isinstance(name, str) and is_version_name(name) for name in names):
            raise ValueError("a name in it is none that a version has")
    except FileNotFoundError as error:
        told = f"{folder} has no current version yet" if folder.is_dir() else f"there is no store of weights {folder}"
        raise WeightsError(f"{told}; to make one: icmformer weights promote {folder} WEIGHTS") from error
    except OSError as error:
        raise WeightsError(f"{folder} has no current version: {file} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{file} is damaged ({type(error).__name__}: {error}); this writes it anew: "
            f"icmformer weights promote {folder} VERSION"
        ) from error
    return pointer


def _text(file: Path) -> str:
    for _ in range(_TRIES - 1):
        try:
            return file.read_text(encoding="utf-8")
        except OSError:
            time.sleep(_PAUSE)
    return file.read_text(encoding="utf-8")
