"""The snapshots of a run: of what is drawn in a tool's project, as it was when it was read."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from .project import MARK, Project

_STALE = 3600.0  # seconds after which a refresh that was stopped begins anew: the project has changed since


@dataclass(frozen=True)
class Snapshots:
    """The snapshot of a run, and, while it is read again, those before and after.

    Attributes:
        run: The run's folder.
    """

    run: Path

    @property
    def current(self) -> Path:
        """What the run goes by."""
        return self.run / "snapshot"

    @property
    def before(self) -> Path:
        """What the run's data were made of, until others are made of the current one."""
        return self.run / "snapshot.before"

    def take(self, project: Project, refresh: bool) -> None:
        """Reads a project where the run has not, or is to do it again; a call that was stopped goes on.

        Raises:
            IcmformerError: See `Project.snapshot`. The run has the snapshot that it had.
        """
        fresh = self.run / "snapshot.new"
        if self.before.exists() and not self.current.exists() and (fresh / MARK).exists():
            fresh.rename(self.current)  # a call was killed right before this
            return
        if not refresh or not (self.current / MARK).exists():
            project.snapshot(self.current)
            return
        if (fresh / MARK).exists() or _age(fresh) > _STALE:
            shutil.rmtree(fresh, ignore_errors=True)
        project.snapshot(fresh)
        if self.before.exists():  # nothing was made of the current one
            shutil.rmtree(self.current)
        else:
            self.current.rename(self.before)
        fresh.rename(self.current)

    def settle(self) -> None:
        """The run's data are made of the current one."""
        shutil.rmtree(self.before, ignore_errors=True)

    def undo(self) -> None:
        """The current one cannot be used; the run goes by the one before, if there is one."""
        if self.before.exists():
            shutil.rmtree(self.current, ignore_errors=True)
            self.before.rename(self.current)


def _age(folder: Path) -> float:
    """Seconds since something was written into a folder."""
    newest = max((path.stat().st_mtime for path in folder.glob("*.json")), default=time.time())
    return time.time() - newest
