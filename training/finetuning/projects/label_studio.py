"""A project of Label Studio, read through its API instead of from an export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from icmformer.disk import writing
from icmformer.errors import ConfigError
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.label_studio import LabelStudio
from icmformer.fetching.label_studio_tasks import LabelStudioGoneError, PatientStudio, pages
from icmformer.fetching.settings import FetchSettings
from icmformer.serving.errors import FetchError, RequestError

from ..readers.annotations import AnnotatedPhoto, AnnotationError
from ..readers.choice import choose
from ..readers.label_studio import read_label_studio
from ..readers.label_studio.fetched import AddressBook
from ..readers.reading_report import ReadingReport
from .project import MARK, read_file, write_file

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds between tries: Label Studio takes a minute or so to start again."""
NOT_FETCHED = "a photo that cannot be fetched"
NOT_ACCEPTED = "annotation that nobody accepted"
_IN_A_ROW = 10  # photos that cannot be fetched, from the first on, after which something is wrong with all
_ABOUT = "project.json"
_ACCEPTED = frozenset({"accepted", "fixed_and_accepted"})


@dataclass(frozen=True)
class LabelStudioProject:
    """What annotators made of a project.

    Attributes:
        studio: Label Studio.
        number: The project's, as in its address.
        accepted: Only annotations that are ground truth, or accepted in a review.
        predictions: Takes predictions of tasks that nobody annotated.
        cache: Of fetched files.
        pauses: Seconds before each further try.
    """

    studio: LabelStudio
    number: int
    accepted: bool = False
    predictions: bool = False
    cache: FileCache | None = None
    pauses: Sequence[float] = PAUSES

    @staticmethod
    def from_settings(
        own: FetchSettings, number: int, accepted: bool = False, predictions: bool = False
    ) -> LabelStudioProject:
        """A project of Label Studio as the settings have it, with the cache that the backend and commands share.

        Raises:
            ConfigError: No token.
        """
        if not own.api_key:
            raise ConfigError("set LABEL_STUDIO_API_KEY to a token of a user who may see the project")
        cache = FileCache(own.fetched_files, own.file_cache_bytes)
        return LabelStudioProject(LabelStudio.from_settings(own), number, accepted, predictions, cache)

    @property
    def name(self) -> str:
        """For people."""
        return f"project {self.number} of {self.studio.url}"

    @property
    def identity(self) -> str:
        """What decides the run: address and number, no secret."""
        asked = f"{' accepted' if self.accepted else ''}{' predictions' if self.predictions else ''}"
        return f"label studio {self.studio.url} project {self.number}{asked}"

    @property
    def _patient(self) -> PatientStudio:
        return PatientStudio(self.studio, self.pauses)

    def snapshot(self, folder: Path) -> None:
        """Writes the tasks that somebody annotated into a folder, a file for each page (see `pages` and `Project`).

        Raises:
            FetchError: Label Studio cannot be reached, or refuses; the same call goes on with the next page.
            DiskFullError: There is no room for it.
        """
        about = read_file(folder / _ABOUT)
        begun = about is not None and about["identity"] == self.identity
        if begun and (folder / MARK).exists():
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not begun:
            for old in (folder / MARK, *_files(folder)):
                old.unlink(missing_ok=True)
            missing = f"there is no {self.name}, or the user of LABEL_STUDIO_API_KEY may not see it"
            project = self._patient.asked(f"/api/projects/{self.number}/", missing)
            if not isinstance(project, Mapping):
                raise FetchError(f"{self.studio.url} answered in a form that is not known: is the address right?")
            config = str(project.get("label_config") or "")
            write_file(folder / _ABOUT, {"identity": self.identity, "label_config": config})
        files = _files(folder)
        number, done = len(files), sum(len(read_file(file)) for file in files)
        last = read_file(files[-1])[-1]["id"] if files else 0
        with tqdm(desc="reading annotations", unit="task", initial=done, disable=None) as bar:
            for tasks, left in pages(
                self._patient, self.number, last, unannotated=self.predictions, predictions=self.predictions
            ):
                number += 1
                write_file(folder / f"tasks-{number:06}.json", tasks)
                bar.total = bar.n + left
                bar.update(len(tasks))
                done += len(tasks)
        write_file(folder / MARK, {"identity": self.identity, "tasks": done})

    def photos(self, folder: Path, report: ReadingReport) -> Iterator[AnnotatedPhoto]:
        """The annotated photos of a snapshot, as an export of the same tasks gives them; see `Project`.

        Raises:
            AnnotationError: There is no whole snapshot, or nothing in it that can be used.
            FetchError: Label Studio cannot be reached, takes the token no more, or none of the first photos comes.
        """
        about = read_file(folder / _ABOUT)
        if about is None or not (folder / MARK).exists():
            raise AnnotationError(f"{folder} holds no whole snapshot of {self.name}")
        book = AddressBook(self.name)
        chosen = choose(self._annotated(folder, about["label_config"] or None, book, report), report)
        if not chosen:
            told = f"{self.name} has no photo that can be used; once it has, take its annotations with --refresh"
            if not _files(folder):
                told = (
                    f"nobody has annotated anything in {self.name} yet; once somebody has, begin anew or with --refresh"
                )
            raise AnnotationError("\n".join([told, *report.lines()]))
        lost = 0
        for number, item in enumerate(tqdm(chosen, desc="fetching", unit="photo", disable=None), 1):
            try:
                content = self._content(book, item.photo.file)
            except LabelStudioGoneError:
                raise
            except RequestError as error:
                lost += 1
                report.skip(NOT_FETCHED, item.photo.identity, str(error))
                if lost == number >= min(_IN_A_ROW, len(chosen)):
                    told = f"none of the first {lost} photos" if lost > 1 else "the photo"
                    verb = "can" if lost > 1 else "cannot"
                    raise FetchError(f"{told} {verb} be fetched: {error}") from error
            else:
                yield _with_file(item, content)

    def _annotated(
        self, folder: Path, config: str | None, book: AddressBook, report: ReadingReport
    ) -> Iterator[AnnotatedPhoto]:
        """What is drawn in a snapshot, of a page at a time: only that is held, in a form that is small."""
        for file in _files(folder):
            tasks = [self._wanted(task, report) for task in read_file(file)]
            yield from read_label_studio(
                tasks, book, report, self.name, config=config, use_predictions=self.predictions
            )

    def _wanted(self, task: Mapping[str, Any], report: ReadingReport) -> Mapping[str, Any]:
        """A task with those of its annotations that are asked for."""
        if not self.accepted:
            return task
        annotations = task["annotations"]
        kept = [each for each in annotations if isinstance(each, Mapping) and _is_accepted(each)]
        if len(kept) < len(annotations):
            report.skip(NOT_ACCEPTED, f"task {task.get('id')} of {self.name}", f"{len(annotations) - len(kept)}")
        return {**task, "annotations": kept}

    def _content(self, book: AddressBook, file: Path | bytes) -> bytes:
        """The bytes of a photo, from the cache or fetched now.

        Raises:
            LabelStudioGoneError: It is not the photo: Label Studio itself does not answer, or refuses the token.
            RequestError: This photo cannot be fetched.
        """
        if isinstance(file, bytes):
            return file
        address, task = book.addresses[file]
        name = f"{self.studio.identity} {address}"
        content = self.cache.get(name) if self.cache else None
        if content is None:
            try:
                content = self.studio.file(address, task)
            except FetchError:
                self._patient.asked("/api/current-user/whoami")
                content = self._again(address, task)
            if self.cache:
                self.cache.put(name, content)
        return content

    def _again(self, address: str, task: str) -> bytes:
        try:
            return self.studio.file(address, task)
        except FetchError:
            self._patient.asked("/api/current-user/whoami")  # it may have gone in between
            raise


def _is_accepted(annotation: Mapping[str, Any]) -> bool:
    """Accepted in the last review; where there is none, ground truth."""
    reviews = annotation.get("reviews")
    known = [each for each in reviews if isinstance(each, Mapping)] if isinstance(reviews, list) else []
    if known:
        return sorted(known, key=lambda review: str(review.get("created_at") or ""))[-1].get("accepted") is True
    return annotation.get("ground_truth") is True or annotation.get("last_action") in _ACCEPTED


def _with_file(item: AnnotatedPhoto, content: bytes) -> AnnotatedPhoto:
    photo = dataclasses.replace(item.photo, file=content)
    return dataclasses.replace(item, photo=photo, others=tuple(_with_file(other, content) for other in item.others))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("tasks-*.json"))
