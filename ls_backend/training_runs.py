"""The folder of the trainings, which backends and their replicas share. All that is known of trainings is in it.

last                              which run was begun or gone on with last
.training.lock                    held by the training itself, for as long as it lives
project-N/annotated               annotations since the last training of that project, a number a line
project-N/run-K/                  a run of `training.finetune`
project-N/run-K/job.json          what started it: the options, how often, and how often without being asked
project-N/run-K/training.log      what it said
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from icmformer.disk import holding, writing
from icmformer.errors import ConfigError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUNS_KEPT = 20
"""Runs of a project whose folders stay; the newest as it is, older ones with their small files alone."""
SMALL_FILES = ("status.json", "job.json", "training.log", "settings.json", "gate.json", "promotion.json", "report.html")
"""What stays of an older run: how it went, and why."""
TOLD = ".told-"
"""With the number of an attempt, the file of a run whose attempt's end was told."""
GOES_ON = frozenset({"interrupted", "stopped"})
"""States in which the same command goes on with a run, without its having said so."""
_NAME = re.compile(r"project-([1-9]\d{0,17})/run-([1-9]\d{0,8})", re.ASCII)
_PROJECT = re.compile(r"project-([1-9]\d{0,17})", re.ASCII)
_RUN = re.compile(r"run-([1-9]\d{0,8})", re.ASCII)
_PAUSE = 0.05
_LAST_LINE = 4096  # bytes of a log's end that its last line is looked for in
Facts = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run of a project.

    Attributes:
        root: The folder of the trainings.
        project: Label Studio's number of the project.
        number: Of the run, from 1 on.
    """

    root: Path
    project: int
    number: int

    @property
    def name(self) -> str:
        """As replies and logs have it."""
        return f"project-{self.project}/run-{self.number}"

    @property
    def folder(self) -> Path:
        """Where it works."""
        return self.root / self.name

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "training.log"

    @property
    def report(self) -> Path:
        """How it went, as a page with pictures."""
        return self.folder / "report.html"

    def says(self) -> str:
        """The last line of what it said since it was started last, be it a bar's."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(int(self.job().get("log", 0)), file.seek(0, os.SEEK_END) - _LAST_LINE))
            lines = [line.strip() for line in re.split(r"[\r\n]+", file.read().decode(errors="replace"))]
            return next((line for line in reversed(lines) if line), "")[-500:]
        return ""

    def status(self) -> Facts:
        """What the training last told of itself; empty where it told nothing."""
        return _read(self.folder / "status.json")

    def job(self) -> Facts:
        """What started it."""
        return _read(self.folder / "job.json")

    def owes_promotion(self) -> bool:
        """Whether its weights were shown to be better, and are in no store: they are in its folder alone."""
        return (
            _read(self.folder / "gate.json").get("verdict") == "fewer" and not (self.folder / "promotion.json").exists()
        )

    def write_status(self, **facts: Any) -> None:
        """Tells something in the training's stead."""
        _write(self.folder / "status.json", {**facts, "updated": now()})

    def write_job(self, **facts: Any) -> None:
        """Notes what starts it."""
        _write(self.folder / "job.json", facts)


def open_runs(root: Path) -> Runs:
    """The runs in a folder of the operator's.

    Raises:
        ConfigError: It cannot be made or written.
    """
    try:
        return Runs(root)
    except OSError as error:
        why = "it is no folder" if root.exists() and not root.is_dir() else error.strerror or str(error)
        raise ConfigError(f"ICMFORMER_TRAINING_DIR: {root} cannot be used: {why}") from error


class Runs:
    """The runs in a folder.

    Args:
        root: Made where it is missing.

    Raises:
        OSError: It cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = self.root / ".training.lock"
        self._lock.touch()

    @contextmanager
    def claimed(self, seconds: float) -> Iterator[int | None]:
        """The right to train, as an open file that a child may inherit; None where a training has it.

        Args:
            seconds: To wait for it.
        """
        descriptor, deadline = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666), time.monotonic() + seconds
        try:
            while not (got := try_lock(descriptor)) and time.monotonic() < deadline:
                time.sleep(_PAUSE)
            yield descriptor if got else None
        finally:
            os.close(descriptor)

    def training(self) -> bool:
        """Whether a training lives."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            return not try_lock(descriptor, shared=True)
        finally:
            os.close(descriptor)

    def last(self) -> Run | None:
        """The run that was begun or gone on with last."""
        return self.named(str(_read(self.root / "last").get("run", "")))

    def remember(self, run: Run) -> None:
        """Makes a run the last one."""
        _write(self.root / "last", {"run": run.name})

    def named(self, name: str) -> Run | None:
        """The run of a name; None where there is none."""
        found = _NAME.fullmatch(name)
        run = Run(self.root, int(found[1]), int(found[2])) if found else None
        return run if run and run.folder.is_dir() else None

    def of_project(self, project: int) -> list[Run]:
        """A project's runs, oldest first."""
        return sorted(
            (Run(self.root, project, number) for number in _numbers(self.root / f"project-{project}", _RUN)),
            key=lambda run: run.number,
        )

    def recent(self, count: int) -> list[Run]:
        """The last runs of all projects, newest first."""
        runs = [run for project in self.projects() for run in self.of_project(project)]
        return sorted(runs, key=lambda run: str(run.job().get("at", "")), reverse=True)[:count]

    def projects(self) -> list[int]:
        """Projects of which anything is known."""
        return sorted(_numbers(self.root, _PROJECT))

    def state(self, run: Run, training: bool | None = None, status: Facts | None = None) -> str:
        """How a run stands: what it says, but for one that says it is running and is not.

        Args:
            run: Which.
            training: Whether a training lives, if that is known.
            status: What the run tells, if that was read already.
        """
        state = str((run.status() if status is None else status).get("state") or "running")
        if state != "running":
            return state
        lives = self.training() if training is None else training
        return "running" if lives and self.last() == run else "interrupted"

    def prune(self, project: int) -> None:
        """Deletes what is large of a project's runs but the newest, and of the oldest everything.

        Weights that were shown to be better, and did not come into the store, stay.
        """
        runs = [run for run in self.of_project(project)[:-1] if not run.owes_promotion()]
        for run in runs[: 1 - RUNS_KEPT]:
            shutil.rmtree(run.folder, ignore_errors=True)
        for run in runs[1 - RUNS_KEPT :]:
            with suppress(OSError):
                for path in run.folder.iterdir():
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path, ignore_errors=True)
                    elif path.name not in SMALL_FILES and not path.name.startswith(TOLD):
                        path.unlink(missing_ok=True)

    def annotated(self, project: int, annotation: int) -> int:
        """Notes an annotation, once however often it is told; gives how many there are since the last training."""
        with self._counting(project) as file:
            known = _lines(file)
            if str(annotation) not in known:
                with file.open("a") as out:
                    out.write(f"{annotation}\n")
            return len(known | {str(annotation)})

    def count(self, project: int) -> int:
        """Annotations since the last training."""
        return len(_lines(self.root / f"project-{project}" / "annotated"))

    def forget_annotations(self, project: int) -> None:
        """A training begins: they count from here."""
        with self._counting(project) as file:
            file.unlink(missing_ok=True)

    @contextmanager
    def _counting(self, project: int) -> Iterator[Path]:
        folder = self.root / f"project-{project}"
        with writing(folder):
            folder.mkdir(exist_ok=True)
            with holding(folder / ".annotated.lock"):
                yield folder / "annotated"


def now() -> str:
    """The time, UTC, to the microsecond: later ones are later in the alphabet, too."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def try_lock(descriptor: int, shared: bool = False) -> bool:
    """Takes the lock on an open file, if that is free."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lines(file: Path) -> set[str]:
    try:
        return set(file.read_text().split())
    except FileNotFoundError:
        return set()


def _numbers(folder: Path, pattern: re.Pattern[str]) -> list[int]:
    try:
        return [int(found[1]) for name in os.listdir(folder) if (found := pattern.fullmatch(name))]
    except OSError:
        return []


def _read(file: Path) -> Facts:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, facts: Mapping[str, Any]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    with writing(file, temporary=(part,)):
        part.write_text(json.dumps(facts, indent=1) + "\n")
        os.replace(part, file)
