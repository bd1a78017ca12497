"""A log of clicks for a team's own number of clicks: opt-in, a local file, no image data, no names.

One line of JSON for each request answered (`"event": "click"`), and, where the tool tells, one for each mask that an
annotator kept (`"event": "accepted"`). `icmformer clicks report` reads it.

A click's `model` names what made the mask, and its `region`, where there is one, is what the mask's id begins with. An
accepted mask has the `version` that its id ends with, a tag of the model (`version_tags`), and its `model` where the
server knows the tag. Lines of older servers lack both, and are read, too.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("icmformer.clicks")
MOST_BYTES = 256 << 20
"""A log over this is put aside as NAME.1, in place of the one before."""
_FIELDS: dict[str, dict[str, Any]] = {
    "click": {"time": str, "positive": int, "negative": int, "box": bool, "result": str, "milliseconds": (int, float)},
    "accepted": {"time": str, "annotation": int, "regions": list},
}
_TEXTS = ("model", "version", "region")
"""Of lines and of their regions: text where they are there."""


class ClickLog:
    """Appends to a file; without a path it does nothing. A file that cannot be written costs lines, never a click.

    Several threads and processes may write to one file. Windows has no `fcntl`: there nothing locks the file, lines are
    appended, and a full file is not put aside.

    Args:
        path: The file; its folder is made.
        most_bytes: When the file is put aside.
    """

    def __init__(self, path: Path | None, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most = path, most_bytes
        self._lock = threading.Lock()
        self._told = False
        if path is not None:
            self._append(path, b"")  # what cannot be is told at the start

    def write(self, event: str, tool: str, **facts: Any) -> None:
        """Adds a line with the time in UTC."""
        if self._path is not None:
            line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "tool": tool, **facts}
            self._append(self._path, json.dumps(line).encode() + b"\n")

    def _append(self, path: Path, text: bytes) -> None:
        try:
            with self._lock:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._append_locked(path, text)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("ICMFORMER_CLICK_LOG: clicks are not logged: %s", error)

    def _append_locked(self, path: Path, text: bytes) -> None:
        """Other processes write to the file and put it aside, too: a lock on it counts only while it has its name."""
        while True:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    held = os.fstat(descriptor)
                    if not _is_named(held, path):
                        continue
                    if held.st_size > self._most:
                        os.replace(path, path.with_name(path.name + ".1"))
                        continue
                os.write(descriptor, text)
                return
            finally:
                os.close(descriptor)  # and with it the lock


def can_append(path: Path) -> bool:
    """Whether a click log could be written there; nothing is."""
    if path.exists():
        return path.is_file() and os.access(path, os.W_OK)
    there = next(folder for folder in path.absolute().parents if folder.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def _is_named(held: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(held, path.stat())
    except FileNotFoundError:
        return False


def read(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The lines of logs, in the order of the files; a line cut short by a crash is left out.

    Raises:
        ConfigError: A file that cannot be read, or none of whose lines is from a click log.
    """
    for path in paths:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                found = [line for text in file if (line := _parsed(text)) is not None]
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
        if not found and path.stat().st_size:
            raise ConfigError(f"{path} is not a click log: it has no valid line")
        yield from found


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or line.get("event") not in _FIELDS:
        return None
    right = all(isinstance(line.get(name), kinds) for name, kinds in _FIELDS[line["event"]].items()) and _texts(line)
    return line if right and all(_is_region(region) for region in line.get("regions", ())) else None


def _is_region(value: Any) -> bool:
    kinds = {"id": str, "clicks": int, "edited": bool}
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), kind) for name, kind in kinds.items())
        and _texts(value)
    )


def _texts(value: dict[str, Any]) -> bool:
    return all(isinstance(value.get(name, ""), str | None) for name in _TEXTS)
