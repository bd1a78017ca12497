"""Fetched files on disk: bounded, written atomically, shared by processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path


class FileCache:
    """Keeps contents by name for a while.

    What is looked up is the newest whole file of its name or nothing; a file that vanishes meanwhile counts as nothing.

    Args:
        folder: Where; made when needed.
        capacity: Bytes; the least recently used files go first. 0 keeps nothing.
        seconds: How long a file counts, so that one that is replaced under the same address is seen.
    """

    def __init__(self, folder: Path, capacity: int, seconds: float = 3600.0) -> None:
        self._folder, self._capacity, self._seconds = folder, capacity, seconds

    def fetched(self, name: str) -> float | None:
        """When the content under a name was fetched (seconds since 1970); None where there is none. Counts as a use."""
        path = self._path(name)
        try:
            fetched = path.stat().st_mtime
            if not self.fresh(fetched):
                return None
            os.utime(path, (time.time(), fetched))  # access time: last used; modification time: fetched
            return fetched
        except OSError:
            return None

    def fresh(self, fetched: float) -> bool:
        """Whether what was fetched then still counts."""
        return time.time() - fetched <= self._seconds

    def get(self, name: str) -> bytes | None:
        """The content kept under a name."""
        if self.fetched(name) is None:
            return None
        try:
            return self._path(name).read_bytes()
        except OSError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Keeps a content; a disk that is full or read-only only means that nothing is kept."""
        if len(content) > self._capacity:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
                try:
                    file.write(content)
                    file.close()
                    os.replace(file.name, self._path(name))
                except OSError:
                    os.unlink(file.name)
                    raise
            self._trim()

    def _trim(self) -> None:
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.suffix == ".part" and time.time() - status.st_mtime > 600:
                    path.unlink()  # left by a process that was killed
                    continue
                files.append((status.st_atime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._capacity:
                return
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.file"
