"""The journal of a run: a line for each unit that is written, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from icmformer.disk import writing
from icmformer.errors import ConfigError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_KIND = "icmformer boxes 1"
_FIRST = json.dumps({"journal": _KIND})[:-1].encode()  # how the first line begins


class Journal:
    """A file of JSON lines, the first of which says what the run is of. Use it as a context.

    A last line that is not whole, as of a process that was killed, is cut off. Two processes cannot have it at once.

    Args:
        path: The file; made, with its folder, when it is not there.
        run: What the run is of: another run must not go on with this journal.

    Raises:
        ConfigError: It is of another run, in use, or none.
        DiskFullError: There is no room for it.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path, self._run = path, dict(run)
        self._places: dict[str, int] = {}  # key -> where its line is
        self._counts: list[Any] = []
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the journal is
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def note(self, key: str, counts: Mapping[str, Any], record: Any = None) -> None:
        """Adds a line; it is on the disk when this returns.

        Args:
            key: Of the unit.
            counts: What became of its boxes.
            record: What else is to be kept of it, as JSON.
        """
        self._append(key, {"key": key, "counts": counts, "record": record})

    def counts(self) -> Iterator[Any]:
        """Of all units, as they were noted."""
        return iter(self._counts)

    def records(self) -> Iterator[Any]:
        """Of all units that have one, read from the file one by one."""
        for start in self._places.values():
            self._file.seek(start)
            with open(self._file.fileno(), "rb", closefd=False) as file:
                record = json.loads(file.readline())["record"]
            if record is not None:
                yield record

    def _append(self, key: str | None, line: Mapping[str, Any]) -> None:
        text = json.dumps(line).encode() + b"\n"
        with writing(self.path):
            start = self._file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(text):
                    written += self._file.write(text[written:])
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(start)
                raise
        if key is not None:
            self._places[key] = start
            self._counts.append(line["counts"])

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"{self.path} is in use: the same command runs already") from error

    def _read(self) -> None:
        start = self._file.seek(0)
        for text in self._lines():
            if not text.endswith(b"\n") and (start or _FIRST.startswith(text[: len(_FIRST)])):
                self._file.truncate(start)
                break
            try:
                line = json.loads(text)
                if start == 0:
                    self._check(line)
                else:
                    self._places[line["key"]] = start
                    self._counts.append(line["counts"])
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConfigError):
                    raise
                raise self._foreign() from None
            start += len(text)
        if start == 0:
            self._append(None, {"journal": _KIND, "run": self._run})

    def _foreign(self) -> ConfigError:
        return ConfigError(f"{self.path} is not a journal of this command; choose another file")

    def _lines(self) -> Iterator[bytes]:
        with open(self._file.fileno(), "rb", closefd=False) as file:
            yield from file

    def _check(self, line: Any) -> None:
        if not isinstance(line, dict) or line.get("journal") != _KIND:
            raise self._foreign()
        was = line["run"]
        other = [name for name in {**was, **self._run} if was.get(name) != self._run.get(name)]
        if other:
            raise ConfigError(
                f"{self.path} is of a run with another {' and '.join(other)}: go on with the same, or delete it to "
                "begin anew"
            )
