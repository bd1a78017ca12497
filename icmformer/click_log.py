"""A log of clicks for a team's own number of clicks: opt-in, a local file, no image data, no names.

One line of JSON for each request answered (`"event": "click"`), and, where the tool tells, one for each mask that an
annotator kept (`"event": "accepted"`). `icmformer clicks report` reads it.
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

log = logging.getLogger("icmformer.clicks")
MOST_BYTES = 256 << 20
"""A log over this is put aside as NAME.1, in place of the one before."""
_FIELDS: dict[str, dict[str, Any]] = {
    "click": {"positive": int, "negative": int, "box": bool, "result": str, "milliseconds": (int, float)},
    "accepted": {"annotation": int, "regions": list},
}


class ClickLog:
    """Appends to a file; without a path it does nothing. A file that cannot be written costs lines, never a click.

    Several threads and processes may write to one file.

    Args:
        path: The file; its folder is made.
        most_bytes: When the file is put aside.

    Raises:
        ConfigError: The file cannot be written.
    """

    def __init__(self, path: Path | None, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most = path, most_bytes
        self._lock = threading.Lock()
        self._told = False
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(b"")
        except OSError as error:
            raise ConfigError(f"ICMFORMER_CLICK_LOG: {path} cannot be written: {error.strerror or error}") from error

    @property
    def on(self) -> bool:
        """Whether anything is written."""
        return self._path is not None

    def write(self, event: str, tool: str, **facts: Any) -> None:
        """Adds a line with the time in UTC."""
        if self._path is None:
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "tool": tool, **facts}
        try:
            with self._lock:
                self._put_aside()
                self._append(json.dumps(line).encode() + b"\n")
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("the click log cannot be written, clicks are not counted: %s", error)

    def _append(self, text: bytes) -> None:
        assert self._path is not None
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, text)  # in one piece: others append too
        finally:
            os.close(descriptor)

    def _put_aside(self) -> None:
        assert self._path is not None
        if self._path.exists() and self._path.stat().st_size > self._most:
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))


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
            raise ConfigError(f"{path} is no click log: none of its lines is one")
        yield from found


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    wanted = _FIELDS.get(str(line.get("event")), {"": ()})
    return line if all(isinstance(line.get(name), kinds) for name, kinds in wanted.items()) else None
