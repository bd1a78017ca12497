"""Label Studio's *Start Training*: a fine-tuning as a process of its own, one at a time, which outlives the backend."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import icmformer
from icmformer.errors import IcmformerError
from icmformer.serving.errors import RequestError, TrainingRefusedError
from icmformer.serving.metrics import Metrics
from icmformer.weights.versions import VersionStore

from . import training_options
from .saved_annotations import has_mask
from .settings import BackendSettings
from .training_follower import Follower
from .training_options import threads_of, training_store
from .training_runs import GOES_ON, Facts, Run, now, open_runs

log = logging.getLogger("icmformer.label_studio")
START = "START_TRAINING"
REPORTS = "training/report/"
"""Where the backend has the reports, from its own address on."""
_RECENT = 5
_NICE = 19
_MOST_BY_ITSELF = 5  # starts of a backend that go on with one run without being asked: what kills it may kill again
_MOST_FAILURES = 4  # of a run that are gone on with; after one more, a new one begins
_ENDING_SECONDS = 10.0  # for a training that has told its end, or was killed, to be gone with its processes
_JOB_STATUS = {"running": "started", "promoted": "finished", "not promoted": "finished", "failed": "failed"}
_NOT_FOR_TRAININGS = ("BASIC_AUTH_", "PROMETHEUS_", "ICMFORMER_TRAINING_", "ICMFORMER_CLICK_LOG")


class TrainingJobs:
    """Starts trainings, goes on with them, and tells how they stand. Safe to call from several threads and processes.

    Args:
        settings: Of the backend, with a folder for trainings.
        metrics: Told how trainings go.
        program: The command that trains, without its options; `training.finetune` by default.

    Raises:
        ConfigError: Something that trainings need is missing.
        WeightsError: There are no such weights.
    """

    def __init__(self, settings: BackendSettings, metrics: Metrics, program: Sequence[str] | None = None) -> None:
        assert settings.training_dir is not None
        self._settings, self._program = settings, tuple(program or training_options.PROGRAM)
        self._store = training_store(settings, settings.user)
        self._threads = threads_of(settings.training_options)
        self.runs = open_runs(settings.training_dir)
        self._follower = Follower(self.runs, metrics, self.start_what_is_due)

    def begin(self) -> None:
        """For the start of a backend: goes on with a training that was interrupted, and follows those that run."""
        every = self._settings.training_every
        also = f", and every {every} annotations" if every else ""
        log.info("Start Training is on%s: runs in %s, promoted to %s; see /training", also, self.runs.root, self._store)
        try:
            self._check_store()
        except TrainingRefusedError as error:
            log.warning("Start Training will be refused: %s", error)
        if self.runs.training():  # it goes on, or what it has left behind is about to end
            interrupted = (_ENDING_SECONDS, frozenset({"interrupted"}))
            threading.Thread(target=self._go_on, args=interrupted, name="interrupted", daemon=True).start()
        else:
            self._go_on(1.0, GOES_ON)
        self._follower.start()

    def press(self, body: Any) -> Facts:
        """Somebody pressed *Start Training*; `body` is what Label Studio sent.

        Raises:
            RequestError: It names no project.
            TrainingRefusedError: The training cannot be started.
        """
        return self.start(project_of(body), "Start Training was pressed")

    def annotated(self, body: Any) -> None:
        """An annotation was created: with enough of them that have a mask a training starts, if that is asked for."""
        every = self._settings.training_every
        annotation = body.get("annotation") if isinstance(body, Mapping) else None
        if not every or not isinstance(annotation, Mapping) or body.get("action") != "ANNOTATION_CREATED":
            return
        number = annotation.get("id")
        if type(number) is not int or annotation.get("was_cancelled") or not has_mask(annotation.get("result")):
            return
        try:
            if self.runs.annotated(project_of(body), number) >= every:
                self.start_what_is_due()
        except (IcmformerError, OSError) as error:
            log.warning("an annotation is not counted for the next training: %s", error)

    def start_what_is_due(self) -> None:
        """Starts a training of a project with enough annotations, unless one runs.

        None of a project whose last one would be gone on with: what ended that may end it again, at once. A press does
        so, after an interruption the start of a backend, too; the next project has its turn.
        """
        every = self._settings.training_every
        due = [project for project in self.runs.projects() if every and self.runs.count(project) >= every]
        if not due or self.runs.training():
            return
        for project in due:
            runs = self.runs.of_project(project)
            if runs and self._may_go_on(runs[-1]):
                continue
            try:
                self.start(project, f"{every} annotations were created")
                return
            except IcmformerError as error:
                log.warning("project %s is due for a training, which does not start: %s", project, error)

    def start(self, project: int, why: str) -> Facts:
        """Starts a training, or goes on with the project's last one where that was interrupted.

        Returns:
            What came of it, as the reply to Label Studio.

        Raises:
            TrainingRefusedError: It cannot be started.
        """
        last = self.runs.last()
        ending = last is not None and last.status().get("state") != "running"
        with self.runs.claimed(_ENDING_SECONDS if ending else 1.0) as lock:
            last = self.runs.last()
            if lock is None:
                told = f"a training is running already, {last.name if last else 'not known'}; press again once it ends"
                log.info("%s: %s", why, told)
                job = {"job": last.name} if last and last.project == project else {}
                return {"status": "running", "told": told, **job}
            runs = self.runs.of_project(project)
            self._check_store()
            goes_on = bool(runs) and self._may_go_on(runs[-1])
            run = runs[-1] if goes_on else Run(self.runs.root, project, runs[-1].number + 1 if runs else 1)
            self._launch(run, lock, by_itself=0)
            verb = "goes on with" if goes_on else "starts"
            log.info("%s: project %d %s %s", why, project, verb, run.name)
            return {"status": "going on" if goes_on else "started", "job": run.name, "told": f"{verb} {run.name}"}

    def status(self) -> Facts:
        """How the last training stands, and what became of those before it."""
        last, training = self.runs.last(), self.runs.training()
        shown: Facts = {"state": "none"} if last is None else self._shown(last, training)
        return {**shown, "runs": [self._shown(run, training) for run in self.runs.recent(_RECENT)]}

    def job_status(self, body: Any) -> Facts | None:
        """What Label Studio is told of a job that a reply named; None where there is no such run any more."""
        name = body.get("job") if isinstance(body, Mapping) else None
        run = self.runs.named(name) if isinstance(name, str) else None
        if run is None:
            return None
        shown = self._shown(run, self.runs.training())
        return {"job_status": _JOB_STATUS.get(shown["state"], "stopped"), **shown}

    def _shown(self, run: Run, training: bool) -> Facts:
        status = run.status()
        told = {name: status.get(name) or "" for name in ("stage", "reason", "version", "error", "difference")}
        told["clicks"] = status.get("clicks") or {}
        counts = {name: status.get(name, 0) for name in ("done", "total")}
        state = self.runs.state(run, training, status)
        since = status.get("started", "")
        says = run.says() if state == "running" else ""
        report = f"{REPORTS}{run.name}" if run.report.is_file() else ""
        named = {"state": state, "project": run.project, "run": run.name}
        return {**named, **told, **counts, "since": since, "says": says, "report": report}

    def _may_go_on(self, run: Run) -> bool:
        """Whether the same command goes on in a run's folder; nobody trains now."""
        state = self.runs.state(run, training=False)
        job = run.job()
        status = run.status()
        failed = state == "failed" and job.get("failures", 0) < _MOST_FAILURES
        may = state in GOES_ON or (failed and bool(status.get("again") or status.get("trained")))
        return may and job.get("options") == list(self._settings.training_options)

    def _check_store(self) -> None:
        """Before a training: what it comes to has to have a place.

        Raises:
            TrainingRefusedError: The store of weights cannot be written.
        """
        try:
            VersionStore(self._store).check_writable()
        except IcmformerError as error:
            raise TrainingRefusedError(f"no training starts, as nothing could be promoted: {error}") from error

    def _go_on(self, seconds: float, states: Container[str]) -> None:
        """Goes on with the last training where that was interrupted.

        Args:
            seconds: To wait for the end of a killed one's processes.
            states: In which it goes on: whoever stops one that lives now means it.
        """
        try:
            with self.runs.claimed(seconds) as lock:
                last = self.runs.last()
                if lock is None or last is None or self.runs.state(last, training=False) not in states:
                    return
                tries = int(last.job().get("by itself", 0))
                told = f"{last.name} was interrupted"
                if not self._may_go_on(last):
                    log.warning("%s, and the options are others by now: Start Training begins anew", told)
                elif tries >= _MOST_BY_ITSELF:
                    log.warning("%s %d times: Start Training goes on with it", told, tries)
                else:
                    self._check_store()
                    self._launch(last, lock, by_itself=tries + 1)
                    log.info("%s, and goes on", told)
        except (IcmformerError, OSError) as error:
            log.warning("the interrupted training does not go on: %s", error)

    def _launch(self, run: Run, lock: int, by_itself: int) -> None:
        """Starts the process, which keeps the lock for as long as it lives.

        Raises:
            TrainingRefusedError: There is no room for it, or it cannot be started.
        """
        command = [*self._program, "--label-studio", self._settings.url, "--project", str(run.project)]
        command += ["--weights", str(self._store), "--promote", str(self._store), "--out", str(run.folder)]
        command += ["--name", f"project-{run.project}", *self._settings.training_options]
        if not any(word.split("=", 1)[0] == "--threads" for word in self._settings.training_options):
            command += ["--threads", str(self._threads)]
        options = list(self._settings.training_options)
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            before, status = run.job(), run.status()
            attempt = int(before.get("attempt", 0)) + 1
            failures = int(before.get("failures", 0)) + (status.get("state") == "failed")
            job: Facts = {"options": options, "attempt": attempt, "failures": failures, "by itself": by_itself}
            job |= {"at": now(), "log": run.log.stat().st_size if run.log.exists() else 0}
            run.write_job(**job)
            trained = bool(status.get("trained"))
            run.write_status(state="running", stage="starting", done=0, total=0, started=now(), trained=trained)
            self.runs.remember(run)
            with run.log.open("ab") as out:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        except OSError as error:  # a full disk among them
            raise TrainingRefusedError(f"the training cannot be started: {error}") from error
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PGRP, child.pid, _NICE)
        with suppress(OSError):  # where memory gets short, the training goes first
            Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
        with suppress(OSError):
            run.write_job(**job, pid=child.pid)
            if attempt == 1:  # one that goes on has read its annotations before
                self.runs.forget_annotations(run.project)
            self.runs.prune(run.project)
        threading.Thread(target=_wait, args=(child, run, attempt), name="training", daemon=True).start()

    def _environment(self) -> dict[str, str]:
        """The backend's, without what is no business of a training; the token comes this way."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_TRAININGS)}
        threads = str(self._threads)
        own = {"LABEL_STUDIO_API_KEY": self._settings.api_key, "LABEL_STUDIO_URL": self._settings.url}
        own |= {"OMP_NUM_THREADS": threads, "ICMFORMER_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        here = Path(icmformer.__file__).resolve().parents[1]
        if here.name not in ("site-packages", "dist-packages"):  # a clone: the training comes from it, too
            own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(here), kept.get("PYTHONPATH"))))
        return {**kept, **own}


def project_of(body: Any) -> int:
    """The number of the project that a request is about: an object with an `id`, or `N.timestamp`.

    Raises:
        RequestError: There is none, or no number from 1 on.
    """
    project = body.get("project") if isinstance(body, Mapping) else None
    number = project.get("id") if isinstance(project, Mapping) else project
    if isinstance(number, str):
        text = number.partition(".")[0]
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if type(number) is not int or not 0 < number < 10**18:
        raise RequestError("project must be one of Label Studio's, with a whole number from 1 on as its id")
    return number


def _wait(child: subprocess.Popen[bytes], run: Run, attempt: int) -> None:
    """Waits for a training's end; tells what one came to that could not tell itself, as where an option is wrong."""
    code = child.wait()
    if code <= 0 or run.job().get("attempt") != attempt or run.status().get("state") != "running":
        return
    last = run.says().removeprefix("error: ") or f"it ended with status {code}"
    with suppress(OSError):
        run.write_status(**{**run.status(), "state": "failed", "error": last})
