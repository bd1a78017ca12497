"""How far a fine-tuning run is, for whoever asks while it runs: RUN/status.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError, DiskFullError, IcmformerError
from icmformer.serving.errors import FetchError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

STATUS_FILE = "status.json"
AFTER_TRAINING = ("choosing the zoom", "evaluating after", "promoting")
"""The stages after the long one, whose result the same command takes up."""
_SECONDS = 1.0  # between two writings within a stage


class Progress:
    """Writes a run's status file, which is replaced as a whole.

    It holds `state` (`running`; at the end `promoted`, `not promoted`, `failed` or `stopped`), `stage` with `done` of
    `total`, times in UTC, the process's number, and at the end what it came to: `clicks`, `reason`, `version`, `error`;
    `trained` says that the long part is behind it, and `again` that the same command goes on with what it had made.

    Args:
        folder: The run's; there has to be one.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATUS_FILE
        self._told = 0.0
        self._facts: dict[str, Any] = {"state": "running", "stage": "", "done": 0, "total": 0, "pid": os.getpid()}
        self._facts |= {"started": _now(), "trained": self._was_trained()}

    @property
    def trained(self) -> bool:
        """Whether this command or one before it came through the training itself."""
        return bool(self._facts["trained"])

    def _was_trained(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            return bool(json.loads(self._path.read_text()).get("trained"))
        return False

    def stage(self, name: str, total: int = 0) -> None:
        """A new stage begins, of `total` parts; 0 where that is not known."""
        self._facts |= {"stage": name, "done": 0, "total": total}
        self._facts["trained"] |= name in AFTER_TRAINING
        self._write()

    def at(self, done: int, total: int | None = None) -> None:
        """So much of the stage is done."""
        self._facts |= {"done": done} | ({} if total is None else {"total": total})
        if time.monotonic() - self._told >= _SECONDS:
            self._write()

    def end(self, state: str, **facts: Any) -> None:
        """The run is over."""
        self._facts |= {"state": state, **facts}
        self._write()

    def _write(self) -> None:
        """A status that cannot be written costs itself, not the run."""
        self._told = time.monotonic()
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            part.write_text(json.dumps({**self._facts, "updated": _now()}, indent=1) + "\n")
            os.replace(part, self._path)


@contextmanager
def told(folder: Path) -> Iterator[Progress]:
    """A run's progress; that it fails or is stopped is told, too."""
    progress = Progress(folder)
    progress.stage("starting")
    try:
        yield progress
    except KeyboardInterrupt:
        progress.end("stopped", again=True)
        raise
    except Exception as error:
        text = " ".join(str(error).split()) if isinstance(error, IcmformerError | OSError) else repr(error)
        again = progress.trained or isinstance(error, FetchError | DiskFullError)
        progress.end("failed", error=text, again=again)
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A time in which no other process works in a folder. Windows has no `fcntl`: there nothing keeps two apart.

    Raises:
        ConfigError: Another process is at work there.
    """
    descriptor = os.open(folder / ".run-lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another process is at work in {folder}; wait for it, or give another --out") from error
        yield
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
