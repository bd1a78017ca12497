"""Rectangles of a Label Studio project, and predictions with their masks: `icmformer boxes label-studio`."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from icmformer.boxes.journal import Journal
from icmformer.boxes.opening import Opened, cached_journal
from icmformer.boxes.work import UnavailableError
from icmformer.errors import ConfigError, PromptError
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.label_studio import ApiError, LabelStudio
from icmformer.fetching.label_studio_tasks import LabelStudioGoneError, PatientStudio, pages
from icmformer.images.reading import LoadedImage
from icmformer.inference.cache import ByteLRU
from icmformer.runs import MaskRuns
from icmformer.serving.errors import FetchError, RequestError
from icmformer.types import Box

from . import codec
from .codec import InteractiveRequest
from .images import DecodedImage, Images
from .labelling_config import read_config
from .settings import BackendSettings

_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds, before Label Studio is asked once more
_RECTANGLES = frozenset({"rectangle", "rectanglelabels"})
_OURS = re.compile(r"([0-9a-f]{16}b)(-\d+)?", re.ASCII)
T = TypeVar("T")
JSON = dict[str, Any]


def open_boxes(args: argparse.Namespace, version: str) -> Opened:
    """The project that the options name; see `icmformer.boxes.opening.Module`."""
    environment = {**os.environ, **({"LABEL_STUDIO_URL": args.url} if args.url else {})}
    settings = BackendSettings.from_environment(environment)
    if not settings.url:
        raise ConfigError("give Label Studio's address with --url, or set LABEL_STUDIO_URL")
    if not settings.api_key:
        raise ConfigError("set LABEL_STUDIO_API_KEY to a token of a user who may change the project's tasks")
    studio = Studio(LabelStudio.from_settings(settings))
    try:
        project = studio.ask(f"/api/projects/{args.project}/")
    except ApiError as error:
        raise ConfigError(
            f"there is no project {args.project} of {settings.url}, or the token's user may not see it ({error.status})"
        ) from error
    decoded: ByteLRU[DecodedImage] = ByteLRU(settings.image_cache_mb << 20)
    files = FileCache(settings.fetched_files, settings.file_cache_bytes)
    images = Images(studio.studio, files, decoded, settings.max_pixels)
    source = ProjectBoxes(studio, images, project, version, args.predictions, settings.polygon_points)
    run = {"project": f"{settings.url} {args.project}", "choice of boxes": args.predictions}
    journal = cached_journal(settings, **run, version=version, threshold=args.threshold)
    place = f"predictions of {version!r} in {settings.url}/projects/{args.project}"
    return Opened(source, journal, run, place, lambda: f"task {source.at:,} of {source.tasks:,}")


class Studio:
    """Label Studio's API, which is asked again where it does not answer for a moment.

    Args:
        studio: Label Studio.
        pauses: Seconds to wait before each further try.
    """

    def __init__(self, studio: LabelStudio, pauses: Sequence[float] = _PAUSES) -> None:
        self.studio, self.pauses = studio, pauses

    def ask(self, path: str) -> Any:
        """What it answers to a GET.

        Raises:
            ApiError: It refuses.
            UnavailableError: It does not answer, or takes the token no more.
        """
        return self.patiently(lambda: self.studio.api(path))

    def patiently(self, do: Callable[[], T]) -> T:
        """Does something, again where Label Studio does not answer."""
        for pause in (*self.pauses, None):
            try:
                return do()
            except FetchError as error:
                status = error.status if isinstance(error, ApiError) else 0
                if pause is None or status in (401, 403):
                    raise UnavailableError(str(error)) from error
                if 400 <= status < 500 and status != 429:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")


class _MaskOfBox(InteractiveRequest):
    """A rectangle as the request to segment it, whose answer has an id of another form than one to clicks.

    So the backend's count of clicks for each mask that annotators keep leaves these masks out.
    """

    @property
    def region_id(self) -> str:
        """A function of task, image, rectangle, label and control."""
        return f"{super().region_id[:16]}b"


@dataclass
class TaskImage:
    """The rectangles on one image of a task.

    Attributes:
        source: Where they are from.
        name: For messages.
        requests: One for each rectangle; an error where there is none that can be asked.
    """

    source: ProjectBoxes
    name: str
    requests: list[_MaskOfBox | RequestError]

    @property
    def boxes(self) -> int:
        return len(self.requests)

    def load(self) -> LoadedImage:
        request = next((each for each in self.requests if not isinstance(each, RequestError)), self.requests[0])
        if isinstance(request, RequestError):
            raise request
        return self.source.image(request)

    def box(self, number: int, image: LoadedImage) -> Box:
        request = self._request(number)
        _, box = request.prompt(*image.pixels.shape[:2])
        assert box is not None
        return box

    def encode(self, number: int, mask: MaskRuns, score: float) -> tuple[float, list[JSON]]:
        regions = codec.answer(self._request(number), mask, score, self.source.polygon_points)
        if not regions:
            raise PromptError("the mask is too small for a polygon")
        return score, regions

    def _request(self, number: int) -> _MaskOfBox:
        request = self.requests[number]
        if isinstance(request, RequestError):
            raise request
        return request


@dataclass(frozen=True)
class Task:
    """A task with rectangles that have no masks.

    Attributes:
        number: Label Studio's.
        key: Of it, all its rectangles and the labelling config.
        images: Those with rectangles that have no mask.
    """

    number: int
    key: str
    images: tuple[TaskImage, ...]


class ProjectBoxes:
    """The rectangles of a project's tasks.

    Of each task one annotation counts: the ground truth, else the one saved last, of those with rectangles.

    Args:
        studio: Label Studio.
        images: Loads images.
        project: As the API has it.
        version: Of the weights: `model_version` of predictions.
        predictions: Whether those of a prediction count, where no annotation has any.
        polygon_points: Most points of a polygon.

    Raises:
        RequestError: A labelling config without a control for masks.
    """

    def __init__(
        self, studio: Studio, images: Images, project: JSON, version: str, predictions: bool, polygon_points: int
    ) -> None:
        self._studio, self._images, self._version, self._predictions = studio, images, version, predictions
        self.polygon_points = polygon_points
        self._project = int(project["id"])
        self._config = str(project.get("label_config") or "")
        tags = read_config(self._config)
        if not any(tag.outputs for tag in tags.values()):
            next(iter(tags.values())).output_for(())  # says what is missing
        self.at, self.tasks = 0, int(project.get("task_number") or 0)

    def total(self) -> None:
        """Not known before the last page."""

    def units(self, done: Container[str]) -> Iterator[Task]:
        self.at = 0
        for task in self._pages():
            self.at += 1
            unit = self._unit(task)
            if unit is not None:
                yield unit

    def _pages(self) -> Iterator[JSON]:
        patient = PatientStudio(self._studio.studio, self._studio.pauses)
        try:
            for tasks, left in pages(patient, self._project, 0, unannotated=self._predictions, predictions=True):
                self.tasks = self.at + left
                yield from tasks
        except LabelStudioGoneError as error:
            raise UnavailableError(str(error)) from error

    def _unit(self, task: JSON) -> Task | None:
        """The rectangles of a task that have no masks of this version; None where there are none."""
        there = _mask_ids(task.get("predictions") or [], self._version)
        images: dict[tuple[str, Any], TaskImage] = {}
        facts = [self._config]
        for items in _rectangles(self._result(task)):
            request = self._request(task, items)
            facts.append(repr(request))
            if not isinstance(request, RequestError) and request.region_id in there:
                continue
            place = str(items[0].get("to_name")), items[0].get("item_index")
            name = f"task {task['id']}, {place[0]}" + ("" if place[1] is None else f"[{place[1]}]")
            images.setdefault(place, TaskImage(self, name, [])).requests.append(request)
        if not images:
            return None
        digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
        return Task(task["id"], f"{task['id']} {digest}", tuple(images.values()))

    def _result(self, task: JSON) -> list[JSON]:
        """What is drawn in the annotation, or prediction, whose rectangles count."""
        drawn = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
        sources = [sorted(drawn, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at"))), reverse=True)]
        if self._predictions:
            made = task.get("predictions") or []
            sources.append(sorted(made, key=lambda p: (str(p.get("updated_at")), p.get("id", 0)), reverse=True))
        for each in (each for source in sources for each in source):
            result = each.get("result")
            if isinstance(result, list) and any(_is_rectangle(item) for item in result):
                return [item for item in result if isinstance(item, dict)]
        return []

    def _request(self, task: JSON, items: list[JSON]) -> _MaskOfBox | RequestError:
        """A rectangle, and what else has its id, as the request to segment it."""
        body = {"tasks": [task], "label_config": self._config, "params": {"context": {"result": items}}}
        try:
            request = codec.parse(body)
        except RequestError as error:
            return error
        assert request is not None
        return _MaskOfBox(**{each.name: getattr(request, each.name) for each in dataclasses.fields(request)})

    def image(self, request: InteractiveRequest) -> LoadedImage:
        """The image of a rectangle.

        Raises:
            RequestError: And its kin: it cannot be fetched or opened.
            UnavailableError: Label Studio does not answer.
        """
        try:
            return self._images.load(request.url, request.task)
        except FetchError:
            self._studio.ask("/api/version/")  # whether it is the image, or Label Studio itself
            return self._images.load(request.url, request.task)

    def write(self, unit: Task, encoded: Sequence[tuple[float, list[JSON]]]) -> None:
        """Creates a prediction; where the answer is lost, looks whether it was made before it is tried again."""
        regions = [region for _, made in encoded for region in made]
        score = round(statistics.fmean(score for score, _ in encoded), 4)
        body = {"task": unit.number, "result": regions, "score": score, "model_version": self._version}
        tries = 0

        def create() -> None:
            nonlocal tries
            tries += 1
            if tries == 1 or not self._there(unit.number, regions[0]["id"]):
                self._studio.studio.api("/api/predictions/", body)

        try:
            self._studio.patiently(create)
        except ApiError as error:
            raise RequestError(f"Label Studio refuses the prediction: {error}") from error

    def _there(self, task: int, region: str) -> bool:
        found = self._studio.studio.api(f"/api/tasks/{task}/?resolve_uri=false").get("predictions") or []
        made = _OURS.fullmatch(region)
        return made is not None and made[1] in _mask_ids(found, self._version)

    def finish(self, journal: Journal) -> None:
        """Nothing is left to be done."""


def _is_rectangle(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("type") in _RECTANGLES and isinstance(item.get("value"), Mapping)


def _rectangles(result: Sequence[JSON]) -> Iterator[list[JSON]]:
    """Rectangles, each first, with the results of the same id that hold its labels."""
    labels: dict[Any, list[JSON]] = {}
    for item in result:
        if item.get("type") == "labels" and isinstance(item.get("id"), str):
            labels.setdefault(item["id"], []).append(item)
    for item in filter(_is_rectangle, result):
        same = labels.get(item["id"], []) if isinstance(item.get("id"), str) else []
        yield [item, *same]


def _mask_ids(predictions: Sequence[Mapping[str, Any]], version: str) -> set[str]:
    """The ids of our masks in predictions of a version."""
    return {
        found[1]
        for prediction in predictions
        if prediction.get("model_version") == version and isinstance(prediction.get("result"), list)
        for item in prediction["result"]
        if isinstance(item, Mapping) and (found := _OURS.fullmatch(str(item.get("id"))[:64]))
    }
