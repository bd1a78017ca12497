"""Follows trainings for the log and the metrics. Of all backends that share the folder, one does, so that none counts
twice; another one takes over when it is gone.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from icmformer.serving.metrics import Metrics

from .training_runs import TOLD, Run, Runs, try_lock

log = logging.getLogger("icmformer.label_studio")
_SECONDS = 0.5
_SHARES = {
    "starting": (0.0, 0.0),
    "reading": (0.0, 0.05),
    "evaluating before": (0.05, 0.2),
    "training": (0.2, 0.8),
    "choosing the zoom": (0.8, 0.9),
    "evaluating after": (0.9, 1.0),
    "promoting": (1.0, 1.0),
}
"""About which part of a training each stage is."""


class Follower:
    """Tells how the last training goes.

    Args:
        runs: The folder.
        metrics: Told how it goes.
        at_end: Called after the end of a training.
    """

    def __init__(self, runs: Runs, metrics: Metrics, at_end: Callable[[], None]) -> None:
        self._runs, self._metrics, self._at_end = runs, metrics, at_end
        self._stage, self._doubts = "", 0
        self._watched: tuple[Run, int] | None = None
        self._lock: int | None = None

    def start(self) -> None:
        """Begins, in a thread of its own."""
        threading.Thread(target=self._follow, name="trainings", daemon=True).start()

    def _follow(self) -> None:
        pause, told = threading.Event(), False
        while not pause.wait(_SECONDS):
            try:
                if self._leads():
                    self.look()
                told = False
            except Exception as error:  # a folder that is away for a while; the next look is soon
                if not told:
                    log.warning("trainings cannot be followed: %r", error)
                told = True

    def _leads(self) -> bool:
        """Whether it is this backend that tells."""
        if self._lock is None:
            descriptor = os.open(self._runs.root / ".follower.lock", os.O_RDWR | os.O_CREAT, 0o666)
            if not try_lock(descriptor):
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def look(self) -> None:
        """Tells what is new."""
        run = self._runs.last()
        if run is None:
            return
        now = run, int(run.job().get("attempt", 0))
        if self._watched != now:
            if self._watched is not None:
                self._end(*self._watched)  # it ended between two looks
            self._watched, self._stage, self._doubts = now, "", 0
        state = self._runs.state(run)
        self._doubts = self._doubts + 1 if state == "interrupted" else 0
        if state == "running" or self._doubts == 1:  # whoever started it may have something to add
            self._running(run)
        else:
            self._metrics.training(False, 0.0)
            self._end(*now)

    def _running(self, run: Run) -> None:
        status = run.status()
        stage, done, total = str(status.get("stage", "")), status.get("done", 0), status.get("total", 0)
        first, last = _SHARES.get(stage, (0.0, 0.0))
        self._metrics.training(True, first + (last - first) * (min(done / total, 1.0) if total else 0.0))
        if stage != self._stage:
            log.info("training %s: %s", run.name, stage)
        self._stage = stage

    def _end(self, run: Run, attempt: int) -> None:
        """Tells how an attempt ended, once."""
        mark = run.folder / f"{TOLD}{attempt}"
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        except FileNotFoundError:  # somebody deleted the run
            return
        same = run.job().get("attempt") == attempt
        status = run.status() if same else {}
        state = self._runs.state(run) if same else "interrupted"
        reason = str(status.get("reason") or status.get("error") or "")
        state_told = f"{state} {status.get('version', '')}".rstrip() if state == "promoted" else state
        facts = {"facts": {"training": run.name, "outcome": state}}
        level = logging.WARNING if state in ("failed", "interrupted") else logging.INFO
        log.log(level, "training %s: %s%s", run.name, state_told, f" ({reason})" if reason else "", extra=facts)
        self._metrics.trained(state)
        self._at_end()
