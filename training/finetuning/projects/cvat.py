"""A task, job or project of CVAT, read through its API instead of from an export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from icmformer.disk import writing
from icmformer.fetching.cvat import Cvat, CvatError
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.settings import CvatSettings

from ..readers.annotations import AnnotatedPhoto, AnnotationError, Photo
from ..readers.choice import choose
from ..readers.cvat_parts import CvatPart, annotations_of
from ..readers.reading_report import ReadingReport
from .cvat_job import CvatJob
from .project import MARK, read_file, write_file

Kind = Literal["task", "job", "project"]
_JOBS = "jobs.json"
_GONE = (403, 404)


@dataclass(frozen=True)
class CvatProject:
    """What annotators made of a task, a job or a project.

    Attributes:
        cvat: The server.
        kind: What is read.
        number: Its number, as in its address.
        accepted: Only jobs that are accepted: stage acceptance, state completed.
        cache: Of fetched frames, which do not change under one number and date.
    """

    cvat: Cvat
    kind: Kind
    number: int
    accepted: bool = False
    cache: FileCache | None = None

    @staticmethod
    def from_settings(own: CvatSettings, kind: Kind, number: int, accepted: bool = False) -> CvatProject:
        """What is read from CVAT as the settings have it, with the cache that commands share.

        Raises:
            ConfigError: No address, no token, or no cvat-sdk.
        """
        cache = FileCache(own.fetched_files, own.file_cache_bytes, seconds=float("inf"))
        return CvatProject(Cvat.from_settings(own), kind, number, accepted, cache)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind} {self.number} of {self.cvat.url}"

    @property
    def identity(self) -> str:
        """What decides the run: address and number, no secret."""
        return f"cvat {self.cvat.url} {self.kind} {self.number}{' accepted' if self.accepted else ''}"

    def snapshot(self, folder: Path) -> None:
        """Writes what CVAT holds now into a folder, a file for each job; a stopped one goes on with the next job.

        Which jobs are read is settled at the beginning; a job that is deleted meanwhile is left out.

        Args:
            folder: Made when needed. A snapshot of something else in it is begun anew.

        Raises:
            CvatError: CVAT cannot be reached, or refuses; the same call goes on later.
            DiskFullError: There is no room for it.
        """
        listed = read_file(folder / _JOBS)
        begun = listed is not None and listed["identity"] == self.identity
        if begun and (folder / MARK).exists():
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not begun:
            for old in (folder / MARK, *folder.glob("job-*.json")):
                old.unlink(missing_ok=True)
            listed = {"identity": self.identity, **self._listed()}
            write_file(folder / _JOBS, listed)
        for facts in tqdm(listed["jobs"], desc="reading annotations", unit="job", disable=None):
            path = _job_file(folder, facts["id"])
            if not path.exists():
                write_file(path, self._content(facts))
        write_file(folder / MARK, {"identity": self.identity, "jobs": len(listed["jobs"])})

    def photos(self, folder: Path, report: ReadingReport) -> Iterator[AnnotatedPhoto]:
        """The annotated photos of a snapshot, by task and frame; each frame's file is fetched when it is its turn.

        A frame of several jobs (an overlap) comes once, with what was changed last; the others are behind it.

        Args:
            folder: Of a whole snapshot.
            report: Is told what was passed over and decided.

        Raises:
            AnnotationError: There is no whole snapshot.
            CvatError: CVAT cannot be reached, or refuses; the same call goes on later, with what was fetched.
        """
        listed = read_file(folder / _JOBS)
        if listed is None or not (folder / MARK).exists():
            raise AnnotationError(f"{folder} holds no whole snapshot of {self.name}")
        for kind, name, why in listed["skipped"]:
            report.skip(kind, name, why)
        reader = _Reader(folder, listed, self.kind == "project", report)
        for numbers, frame in tqdm(reader.frames(), desc="fetching", unit="photo", disable=None):
            content = self._fetched(reader.job(numbers[0]), frame, reader.identity(numbers[0], frame), report)
            if content is not None:
                sessions = [reader.session(number, frame, content, report) for number in numbers]
                yield from sessions if len(sessions) == 1 else choose(sessions, report)

    def _fetched(self, job: CvatJob, frame: int, identity: str, report: ReadingReport) -> bytes | None:
        """A frame's file; None, and a line of the report, where CVAT is there and does not give it."""
        name = self.cvat.frame_name(job.facts["task_id"], frame, job.meta)
        content = self.cache.get(name) if self.cache else None
        if content is None:
            try:
                content = self.cvat.frame(job.number, frame)
            except CvatError as error:
                if error.of_all:
                    raise
                report.skip("a photo that CVAT does not give", identity, str(error))
                return None
            if self.cache:
                self.cache.put(name, content)
        return content

    def _listed(self) -> dict[str, Any]:
        """Jobs to read, their tasks by number, and what is passed over."""
        if self.kind == "job":
            found = iter([self.cvat.job(self.number)])
        elif self.kind == "task":
            self.cvat.task(self.number)  # a list of jobs is empty, too, where there is no such task
            found = self.cvat.jobs(task_id=self.number)
        else:
            self.cvat.project(self.number)
            found = self.cvat.jobs(project_id=self.number)
        jobs, skipped = [], []
        for job in found:
            why = self._passed_over(job)
            if why:
                skipped.append((why, f"job {job['id']}", _state(job)))
            else:
                jobs.append(job)
        tasks = [self.cvat.task(number) for number in sorted({job["task_id"] for job in jobs})]
        known = {str(task["id"]): {**task, "honeypots": self.cvat.honeypots(task)} for task in tasks}
        return {"jobs": jobs, "tasks": known, "skipped": skipped}

    def _passed_over(self, job: Mapping[str, Any]) -> str:
        """Why a job is not read; empty for one that is."""
        kind = job.get("type", "annotation")
        if job.get("dimension", "2d") != "2d" or job.get("media_type", "image") == "audio":
            return "a job without photos"
        if kind != "annotation" and self.kind != "job":
            return f"a {str(kind).replace('_', ' ')} job, which repeats frames of annotation jobs"
        if self.accepted and (job.get("stage"), job.get("state")) != ("acceptance", "completed"):
            return "a job that is not accepted"
        return ""

    def _content(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What a job's file holds; nothing but the job of one that was deleted meanwhile."""
        number = facts["id"]
        try:
            labels = {str(label["id"]): label["name"] for label in self.cvat.labels(number)}
            return {"labels": labels, "meta": self.cvat.meta(number), "annotations": self.cvat.annotations(number)}
        except CvatError as error:
            if error.status not in _GONE:
                raise
            return {"gone": str(error)}


class _Reader:
    """Reads a snapshot; holds the annotations of a few jobs at a time."""

    def __init__(self, folder: Path, listed: Mapping[str, Any], subsets: bool, report: ReadingReport) -> None:
        self._folder, self._subsets, self._tasks = folder, subsets, listed["tasks"]
        order = sorted(listed["jobs"], key=lambda job: (job["task_id"], job["start_frame"], job["id"]))
        self._facts = {int(job["id"]): job for job in order}
        self.loaded = lru_cache(maxsize=4)(self._loaded)
        self._jobs: dict[tuple[int, int], list[int]] = {}
        """Jobs that have something on a frame, by task and frame, in the order in which they are read."""
        self._tasks_of: dict[str, set[int]] = defaultdict(set)
        for number, facts in self._facts.items():
            job, parts, told = self.loaded(number)
            report.rows.extend(told.rows)
            for frame in sorted(parts):
                self._jobs.setdefault((facts["task_id"], frame), []).append(number)
                self._tasks_of[self._path(job, frame)].add(facts["task_id"])

    def frames(self) -> Collection[tuple[list[int], int]]:
        """The frames that have something, each with its jobs."""
        return [(numbers, frame) for (_, frame), numbers in self._jobs.items()]

    def job(self, number: int) -> CvatJob:
        """A job."""
        return self.loaded(number)[0]

    def identity(self, number: int, frame: int) -> str:
        """A photo's path as an export has it; with its task, where another task has one of that path."""
        job = self.job(number)
        path = self._path(job, frame)
        return path if len(self._tasks_of[path]) == 1 else f"{job.about.name}/{path}"

    def session(self, number: int, frame: int, content: bytes, report: ReadingReport) -> AnnotatedPhoto:
        """What a job has on a frame."""
        job, parts, _ = self.loaded(number)
        identity, about = self.identity(number, frame), job.about
        group = about.group(str(job.frames[frame]["name"]))
        photo = Photo(identity, content, job.size(frame), group, "upright", "cvat")
        annotations = annotations_of(parts[frame], identity, about.assignee, report)
        return AnnotatedPhoto(photo, annotations, updated=about.updated)

    def _path(self, job: CvatJob, frame: int) -> str:
        name = str(job.frames[frame]["name"])
        return f"{job.task.get('subset') or 'default'}/{name}" if self._subsets else name

    def _loaded(self, number: int) -> tuple[CvatJob, dict[int, list[CvatPart]], ReadingReport]:
        facts = self._facts[number]
        content = read_file(_job_file(self._folder, number)) or {"gone": "its file is missing"}
        report = ReadingReport()
        if "gone" in content:
            report.skip("a job that was deleted meanwhile", f"job {number}", content["gone"])
            content = {"labels": {}, "meta": {}, "annotations": {}}
        labels = {int(key): name for key, name in content["labels"].items()}
        task = self._tasks[str(facts["task_id"])]
        job = CvatJob(facts, task, labels, content["meta"], content["annotations"])
        return job, job.parts(report), report


def _state(job: Mapping[str, Any]) -> str:
    return f"stage {job.get('stage', '?')}, state {job.get('state', '?')}"


def _job_file(folder: Path, number: int) -> Path:
    return folder / f"job-{number}.json"
