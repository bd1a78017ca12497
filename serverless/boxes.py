"""Rectangles of CVAT's jobs, and masks for them: `icmformer boxes cvat`."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from icmformer.boxes.journal import Journal
from icmformer.boxes.opening import Opened, cached_journal
from icmformer.boxes.work import UnavailableError
from icmformer.errors import ConfigError, PromptError
from icmformer.fetching.cvat import PAUSES, Cvat, CvatError
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.settings import CvatSettings
from icmformer.images.reading import LoadedImage
from icmformer.runs import MaskRuns
from icmformer.types import BoolMask, Box

from .rle import encode_shape

_SAME_OBJECT = 0.5
"""IoU over which two masks of a label are of one object."""
_KEPT = ("group", "z_order", "occluded", "attributes")
"""What a mask has from its rectangle, beside frame and label."""
_MASK_LABELS = ("any", "mask", None)  # None: CVAT before label types
JSON = dict[str, Any]
T = TypeVar("T")


def open_boxes(args: argparse.Namespace, version: str) -> Opened:
    """The task or job that the options name; see `icmformer.boxes.opening.Module`."""
    environment = {**os.environ, **({"CVAT_HOST": args.url} if args.url else {})}
    settings = CvatSettings.from_environment(environment)
    if not settings.host:
        raise ConfigError("give CVAT's address with --url, or set CVAT_HOST")
    cvat = Cvat.from_settings(settings)
    kind, number = ("task", args.task) if args.task is not None else ("job", args.job)
    cache = FileCache(settings.fetched_files, settings.file_cache_bytes, seconds=math.inf)
    source = CvatBoxes(cvat, kind, number, cache, settings.max_pixels)
    run = {kind: f"{settings.host} {number}"}
    journal = cached_journal(settings, **run, version=version, threshold=args.threshold)
    return Opened(source, journal, run, f"masks of {kind} {number} in {settings.host}", source.progress)


@dataclass
class Job:
    """A job, and what it holds.

    Attributes:
        facts: As the API has it.
        meta: Of its frames, as the API has it.
        labels: As the API has them, by number.
        shapes: As the API has them.
    """

    facts: JSON
    meta: JSON
    labels: Mapping[int, JSON]
    shapes: Sequence[JSON] = field(default_factory=tuple)

    @property
    def number(self) -> int:
        """The job's number."""
        return int(self.facts["id"])

    def holds(self, mask: Mapping[str, Any]) -> bool:
        """Whether there is a mask of the object already, whoever drew it."""
        there = (s for s in self.shapes if s["type"] == "mask" and _place(s) == _place(mask))
        return any(iou(shape["points"], mask["points"]) > _SAME_OBJECT for shape in there)


@dataclass(frozen=True)
class FrameBoxes:
    """The rectangles of a frame.

    Attributes:
        source: Where they are from.
        job: Its job.
        number: The frame's, as CVAT counts.
        rectangles: As the API has them.
    """

    source: CvatBoxes
    job: Job
    number: int
    rectangles: Sequence[JSON]

    @property
    def key(self) -> str:
        facts = [[r["label_id"], r["points"], r.get("rotation") or 0] for r in self.rectangles]
        digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
        return f"job {self.job.number} frame {self.number} {digest}"

    @property
    def images(self) -> Sequence[FrameBoxes]:
        """The one."""
        return (self,)

    @property
    def name(self) -> str:
        return f"frame {self.number} of job {self.job.number}"

    @property
    def boxes(self) -> int:
        return len(self.rectangles)

    def load(self) -> LoadedImage:
        return self.source.image(self.job, self.number)

    def box(self, number: int, image: LoadedImage) -> Box:
        rectangle = self.rectangles[number]
        label = self.job.labels.get(rectangle["label_id"], {})
        if label.get("type") not in _MASK_LABELS:
            raise PromptError(
                f"label {label.get('name')!r} is for shapes of the type {label['type']!r} alone: set it to any in CVAT"
            )
        return upright(rectangle["points"], float(rectangle.get("rotation") or 0))

    def encode(self, number: int, mask: MaskRuns, score: float) -> JSON:
        rectangle = self.rectangles[number]
        made = {"type": "mask", "frame": self.number, "label_id": rectangle["label_id"], "source": "auto"}
        made |= {key: rectangle[key] for key in _KEPT if rectangle.get(key)}
        points = [float(value) for value in encode_shape(mask)]
        return {**made, "points": points, "score": round(min(max(score, 0.0), 1.0), 4), "_of": rectangle.get("id")}


class CvatBoxes:
    """The rectangles of a task's annotation jobs, or of a job.

    Args:
        cvat: The server.
        kind: "task" or "job".
        number: Its number.
        cache: Of frames' files.
        max_pixels: Largest image opened.
        pauses: Seconds before an addition whose fate is unknown is tried again.

    Raises:
        CvatError: There is no such task or job, or CVAT does not answer.
    """

    def __init__(
        self,
        cvat: Cvat,
        kind: str,
        number: int,
        cache: FileCache,
        max_pixels: int,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._cvat, self._cache, self._max_pixels, self._pauses = cvat, cache, max_pixels, pauses
        self._at = 0
        if kind == "job":
            self._jobs = [cvat.job(number)]
        else:
            cvat.task(number)  # a list of jobs is empty, too, where there is no such task
            self._jobs = [job for job in cvat.jobs(task_id=number) if job.get("type", "annotation") == "annotation"]
        if any(job.get("dimension", "2d") != "2d" for job in self._jobs):
            raise ConfigError(f"{kind} {number} has no photos, but point clouds")

    def progress(self) -> str:
        """How far the jobs are gone through."""
        return f"job {self._at} of {len(self._jobs)}"

    def total(self) -> None:
        """Not known before the last job is read."""

    def units(self, done: Container[str]) -> Iterator[FrameBoxes]:
        for at, facts in enumerate(self._jobs, 1):
            self._at, job = at, self._read(facts)
            gone = set(job.meta.get("deleted_frames") or ())
            frames: dict[int, list[JSON]] = defaultdict(list)
            for shape in job.shapes:
                if shape["type"] == "rectangle" and shape["frame"] not in gone:
                    frames[shape["frame"]].append(shape)
            for number in sorted(frames):
                yield FrameBoxes(self, job, number, frames[number])

    def _read(self, facts: JSON) -> Job:
        def read() -> Job:
            number = facts["id"]
            labels = {label["id"]: label for label in self._cvat.labels(number)}
            return Job(facts, self._cvat.meta(number), labels, self._shapes(number))

        return self._available(read)

    def _shapes(self, job: int) -> Sequence[JSON]:
        return tuple(self._cvat.annotations(job).get("shapes") or ())

    def image(self, job: Job, number: int) -> LoadedImage:
        """A frame, as CVAT shows it.

        Raises:
            ImageError: It cannot be opened.
            CvatError: CVAT does not give it.
            UnavailableError: CVAT does not answer.
        """
        name = self._cvat.frame_name(job.facts["task_id"], number, job.meta)
        content = self._cache.get(name)
        if content is None:
            content = self._available(lambda: self._cvat.frame(job.number, number))
            self._cache.put(name, content)
        return LoadedImage.from_bytes(content, self._max_pixels, shown_by="cvat")

    def write(self, unit: FrameBoxes, encoded: Sequence[JSON]) -> list[JSON]:
        """Adds a frame's masks in one request, but for objects that have one; what is there stays as it is.

        Where the answer is lost, the job is read again before it is tried again.

        Returns:
            Of each mask its number in CVAT (None for one that was there), its rectangle's, and its score.
        """
        job = unit.job
        for pause in (*self._pauses, None):
            new = [mask for mask in encoded if not job.holds(mask)]
            shapes = [{key: value for key, value in mask.items() if key != "_of"} for mask in new]
            try:
                made = self._cvat.add_shapes(job.number, shapes) if shapes else []
                break
            except CvatError as error:
                if not error.passing or pause is None:
                    self._available(_raising(error))
                time.sleep(pause or 0)
                job.shapes = self._available(lambda: self._shapes(job.number))
        numbers = {id(mask): shape.get("id") for mask, shape in zip(new, made, strict=False)}
        return [{"rectangle": m["_of"], "mask": numbers.get(id(m)), "score": m["score"]} for m in encoded]

    def finish(self, journal: Journal) -> None:
        """Nothing is left to be done."""

    @staticmethod
    def _available(do: Callable[[], T]) -> T:
        """Does something; what other frames would fare no better with ends the run."""
        try:
            return do()
        except CvatError as error:
            if error.of_all:
                raise UnavailableError(str(error)) from error
            raise


def _raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def upright(points: Sequence[float], rotation: float) -> Box:
    """The upright box around a rectangle that is turned about its middle.

    Args:
        points: x1, y1, x2, y2 before the turn.
        rotation: In degrees, clockwise.

    Raises:
        PromptError: No rectangle.
    """
    if len(points) != 4:
        raise PromptError(f"a rectangle has four numbers, got {len(points)}")
    x1, y1, x2, y2 = points
    if not rotation % 180:
        return Box(x1, y1, x2, y2)
    turn = math.radians(rotation)
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    width, height = abs(x2 - x1), abs(y2 - y1)
    across, down = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return Box(x - across, y - down, x + across, y + down)


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two masks in the API's form (run lengths, left, top, right, bottom); 0 where one of them is none."""
    try:
        (a, left, top), (b, left_b, top_b) = _decoded(one), _decoded(other)
    except (ValueError, OverflowError):
        return 0.0
    x1, y1 = max(left, left_b), max(top, top_b)
    x2, y2 = min(left + a.shape[1], left_b + b.shape[1]), min(top + a.shape[0], top_b + b.shape[0])
    if x1 >= x2 or y1 >= y2:
        return 0.0
    both = a[y1 - top : y2 - top, x1 - left : x2 - left] & b[y1 - top_b : y2 - top_b, x1 - left_b : x2 - left_b]
    shared = int(np.count_nonzero(both))
    return shared / (int(a.sum()) + int(b.sum()) - shared)


def _decoded(points: Sequence[float]) -> tuple[BoolMask, int, int]:
    """The mask within its box, and the box's left and upper side."""
    *runs, left, top, right, bottom = map(int, points)
    height, width = bottom - top + 1, right - left + 1
    if min(height, width) < 1 or min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ValueError("no mask")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width), left, top


def _place(shape: Mapping[str, Any]) -> tuple[Any, Any]:
    return shape["frame"], shape["label_id"]
