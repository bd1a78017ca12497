"""Label Studio's tasks as photos with annotations."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..annotations import (
    AnnotatedPhoto,
    Annotation,
    AnnotationError,
    BadAnnotationError,
    Photo,
    Shape,
)
from ..photo_finder import PhotoFinder
from ..reading_report import ReadingReport
from .addresses import names
from .choice import Chosen, choose, text_of
from .config import LabellingConfig
from .fetched import AddressBook
from .forms import FLAT, label_studio_tasks
from .shapes import OUTLINES, geometry, kind_of, shape_of
from .task_photos import Found, Images, Target, TaskPhotos, Uploads

_LARGEST = 1_000_000
_UNREADABLE = "region that cannot be read"


def read_label_studio(
    tasks: Any,
    finder: PhotoFinder | AddressBook,
    report: ReadingReport,
    where: str,
    config: str | None = None,
    use_predictions: bool = False,
) -> Iterator[AnnotatedPhoto]:
    """The photos of tasks that have outlines; of a task's annotations one counts (see `choose`).

    A region's photo is the one that the labelling config, if given, has for its `to_name`; else the task's only one;
    else the one under the key of that name; else the only one of its size. Of a list it is the one at `item_index`.
    Where all that tells nothing, the region is skipped.

    Photos are annotated as they are shown, upright. A photo that was turned with Label Studio's own tool makes no
    difference: coordinates and masks are of the photo as it was before (`image_rotation` only repeats the turn).

    Args:
        tasks: The export's JSON, in any form that `label_studio_tasks` knows.
        finder: Finds the photos, or notes their addresses.
        report: Is told what was skipped and decided.
        where: The file's name, for messages.
        config: The project's labelling config (XML).
        use_predictions: Takes a prediction where there is no annotation.

    Raises:
        AnnotationError: No export of Label Studio, annotations without tasks, or no labelling config.
    """
    every = label_studio_tasks(tasks)
    if every is None:
        raise AnnotationError(f"{where} is no export of Label Studio: export the project as JSON")
    files = finder if isinstance(finder, PhotoFinder) else None
    images = Images(Uploads(files), _names(every), LabellingConfig(config) if config is not None else None)
    for number, task in enumerate(every, 1):
        name = f"task {text_of(task.get('id')) or f'at place {number}'} of {where}"
        if "data" not in task:
            report.skip("entry that is no task", f"entry {number} of {where}")
            continue
        group = f"task {text_of(task.get('id'))}" if text_of(task.get("id")) else name
        chosen = choose(task, name, report, use_predictions)
        if chosen is not None:
            data = task["data"] if isinstance(task["data"], Mapping) else {"data": task["data"]}
            photos = TaskPhotos(data, finder, images, name, report, text_of(task.get("id")))
            yield from _Task(name, group, bool(task.get(FLAT)), photos, report).read(chosen)


def _names(tasks: Sequence[Mapping[str, Any]]) -> frozenset[str | None]:
    """The image tags that regions are on; None for that of regions that do not say it."""
    names: set[str | None] = set()
    for task in tasks:
        for annotation in task.get("annotations", ()):
            result = annotation.get("result") if isinstance(annotation, Mapping) else None
            for region in result if isinstance(result, list) else ():
                value = region.get("value") if isinstance(region, Mapping) else None
                if isinstance(value, Mapping) and kind_of(value):
                    name = region.get("to_name")
                    names.add(name if isinstance(name, str) else None)
    return frozenset(names)


@dataclass
class _Region:
    """A region: all results that have its id, of which the first says where it is."""

    name: str
    kind: str
    value: Mapping[str, Any]
    target: Target
    source: str
    label: str = ""
    others: int = 0


@dataclass
class _Annotated:
    """What one photo of a task has collected."""

    found: Found
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    annotations: list[Annotation] = field(default_factory=list)


@dataclass
class _Task:
    """Reads the regions of one task."""

    name: str
    group: str
    flat: bool
    photos: TaskPhotos
    report: ReadingReport

    def read(self, chosen: Chosen) -> Iterator[AnnotatedPhoto]:
        """The photos of a task with what the chosen annotation outlines on them."""
        collected: dict[Path | bytes, _Annotated] = {}
        lost: dict[tuple[str, str, str], int] = {}
        for region in self._regions(chosen):
            shape = self._shape(region)
            if shape is None:
                continue
            try:
                found = self.photos.find(region.target)
            except BadAnnotationError as error:
                on = f"{region.target.to_name} of {self.name}" if region.target.to_name else self.name
                key = error.kind, on, error.text
                lost[key] = lost.get(key, 0) + 1
                continue
            photo = collected.setdefault(found.file, _Annotated(found))
            if region.target.size is not None:
                photo.sizes[region.target.size] += 1
            photo.annotations.append(Annotation(region.name, (shape,), region.label, region.source, chosen.annotator))
        for (kind, on, text), regions in lost.items():
            self.report.skip(kind, on, f"{text} ({regions} region{'s' * (regions > 1)})")
        for photo in collected.values():
            size = photo.sizes.most_common(1)[0][0] if photo.sizes else None
            identity = photo.found.identity
            path = next(iter(names(identity)), identity)
            about = Photo(identity, photo.found.file, size, self.group, "upright", "label studio", path)
            yield AnnotatedPhoto(about, tuple(photo.annotations), False, chosen.ground_truth, chosen.updated)

    def _shape(self, region: _Region) -> Shape | None:
        """The outline of a region; None, reported, where it has none that can be used."""
        name = f"{region.name} of {self.name}"
        if region.others:
            self.report.skip("another outline under the id of a region", name, f"{region.others}; the first one counts")
        if region.kind not in OUTLINES:
            self.report.skip(region.kind, name)
            return None
        try:
            return shape_of(region.value, region.kind, region.target.size)
        except BadAnnotationError as error:
            self.report.skip(error.kind, name, error.text)
            return None

    def _regions(self, chosen: Chosen) -> Iterable[_Region]:
        """Results under one id are one region: with unified labels each comes twice, and once more for each answer."""
        regions: dict[object, _Region] = {}
        for place, item in enumerate(chosen.result, 1):
            if not isinstance(item, Mapping):
                self.report.skip(_UNREADABLE, f"region {place} of {self.name}", f"it is {type(item).__name__}")
                continue
            value = item.get("value")
            kind = kind_of(value) if isinstance(value, Mapping) else None
            if kind is None or not isinstance(value, Mapping):
                continue
            target = self._target(item)
            number = text_of(item.get("id"))
            try:
                key: object = (target.to_name, target.index, number or _digest(value))
            except RecursionError:
                self.report.skip(_UNREADABLE, f"region {place} of {self.name}", "lists within lists")
                continue
            if key not in regions:
                source = text_of(item.get("origin")) or chosen.source
                regions[key] = _Region(f"region {number or place}", kind, value, target, source)
            region = regions[key]
            region.label = region.label or _label(value)
            if region.value is not value and not _same(region.value, value):
                region.others += 1
        return regions.values()

    def _target(self, item: Mapping[str, Any]) -> Target:
        to_name, from_name, index = item.get("to_name"), item.get("from_name"), item.get("item_index")
        return Target(
            to_name if isinstance(to_name, str) and not self.flat else None,
            from_name if isinstance(from_name, str) else None,
            index if isinstance(index, int) and not isinstance(index, bool) else None,
            _size(item),
        )


def _digest(value: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(repr(geometry(value)).encode("utf-8", "backslashreplace")).digest()


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    try:
        return geometry(one) == geometry(other)
    except RecursionError:
        return False


def _label(value: Mapping[str, Any]) -> str:
    """The first label of a value's list of labels, as `labels` and `brushlabels` are; empty for none."""
    for key, labels in value.items():
        if key.lower().endswith("labels") and isinstance(labels, list) and labels:
            return text_of(labels[0])
    return ""


def _size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that a region states; None where it states none that a photo has."""
    sides = []
    for key in ("original_height", "original_width"):
        side = item.get(key)
        if isinstance(side, str) and side.isascii() and side.isdigit() and len(side) < 8:
            side = int(side)
        if isinstance(side, bool) or not isinstance(side, int | float) or not 0 < side <= _LARGEST or side % 1:
            return None
        sides.append(int(side))
    return sides[0], sides[1]
