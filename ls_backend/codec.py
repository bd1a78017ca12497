"""Between Label Studio's JSON and the package's vocabulary. No network, no image, no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icmformer.errors import PromptError
from icmformer.geometry import CleanUp, Polygon, mask_to_polygons
from icmformer.runs import MaskRuns
from icmformer.serving.errors import RequestError, UnusableImageError
from icmformer.serving.requests import Summary
from icmformer.serving.version_tags import version_tag
from icmformer.types import Box, Click

from . import rle
from .labelling_config import ImageTag, Output, read_config, some
from .task_image import image_url

_MOST_POINTS = 200  # each is a pass of the network
_LONGEST_ID = 200
_SLACK = 0.5  # percent beyond the image that a drag at its edge may leave


@dataclass(frozen=True)
class Mark:
    """A click or a rectangle, in percent of the image.

    Attributes:
        id: Label Studio's id of the region.
        x, y: The click, or the rectangle's top left corner.
        positive: Of a click.
        size: Width and height of a rectangle; None for a click.
        rotation: Degrees clockwise around the corner, of a rectangle.
    """

    id: str
    x: float
    y: float
    positive: bool = True
    size: tuple[float, float] | None = None
    rotation: float = 0.0


@dataclass(frozen=True)
class InteractiveRequest:
    """One object that an annotator is clicking on.

    Attributes:
        task: The task's id, for logs and for telling requests apart.
        image: The image tag that was clicked on.
        url: Where the image is, as the task has it.
        output: How to answer.
        labels: The labels to answer with; none where none is chosen.
        marks: Clicks and rectangles in the order they were made.
        item_index: Which image of a `valueList`; None for a single image.
        original_size: (width, height) of the image as the page has it; None where it does not tell.
    """

    task: str
    image: ImageTag
    url: str
    output: Output
    labels: tuple[str, ...]
    marks: tuple[Mark, ...]
    item_index: int | None
    original_size: tuple[int, int] | None

    def prompt(self, height: int, width: int) -> tuple[tuple[Click, ...], Box | None]:
        """The clicks, and the last rectangle, in pixels of an image of `height` x `width`.

        Raises:
            UnusableImageError: The page saw an image of another size.
            RequestError: A rectangle without area or outside the image.
        """
        if self.original_size is not None and self.original_size != (width, height):
            raise UnusableImageError(
                f"the page has an image of {self.original_size[0]} x {self.original_size[1]} pixels, the file has "
                f"{width} x {height}: was it replaced since the task was made?"
            )
        clicks, box = [], None
        for mark in self.marks:
            if mark.size is None:
                x, y = (min(max(v, 0.0), 100.0) for v in (mark.x, mark.y))
                clicks.append(Click(x * width / 100, y * height / 100, mark.positive))
            else:
                box = _box(mark, height, width)
        return tuple(clicks), box

    empty = False

    def summary(self) -> Summary:
        """See `ClickRequest`."""
        clicks = [mark.positive for mark in self.marks if mark.size is None]
        return Summary(
            positive=sum(clicks),
            negative=len(clicks) - sum(clicks),
            boxes=len(self.marks) - len(clicks),
            group=(self.task, self.marks[0].id),
            facts={"task": self.task, "clicks": len(clicks)},
            logged={"region": self.region_id},
        )

    @property
    def region_id(self) -> str:
        """What an answer's ids begin with: a function of the request alone, and of no other.

        It ends with the number of clicks and boxes: `saved_annotations` reads there what a mask took. An answer adds
        the tag of the model that made the mask (`version_tag`), such as v1a2b3c4d, and Label Studio's page keeps the id
        of the last answer, so that of the mask that it keeps.
        """
        facts = [
            self.task,
            self.image.name,
            self.item_index,
            self.output.name,
            self.labels,
            [repr(m) for m in self.marks],
        ]
        return f"{hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()}n{len(self.marks)}"


def parse(body: Any) -> InteractiveRequest | None:
    """Reads the body of `/predict`; None where nothing was clicked (a page was opened, or a batch is asked for).

    Raises:
        RequestError: Anything that does not fit; the text says what.
    """
    context = _mapping(_get(body, "params", Mapping, {}), "params").get("context")
    if not context:
        return None
    items = _mapping(context, "params.context").get("result")
    if not items:
        return None
    if not isinstance(items, list) or len(items) > 2 * _MOST_POINTS:
        raise RequestError(f"params.context.result must be a list of at most {2 * _MOST_POINTS} regions")
    items = [_mapping(item, f"params.context.result[{n}]") for n, item in enumerate(items)]
    task = first_task(body)
    data = task.get("data")
    images = read_config(_get(body, "label_config", str), data if isinstance(data, Mapping) else {})
    last = items[-1]
    name = _get(last, "to_name", str)
    if name not in images:
        raise RequestError(
            f"the clicks are on {_brief(name)}, which is not an image of the labelling config ({some(images)})"
        )
    index = _index(last)
    group = [item for item in items if item.get("to_name") == name and _index(item) == index]
    labels = _labels(group)
    image = images[name]
    return InteractiveRequest(
        task=task_id(task),
        image=image,
        url=image_url(task, image, index),
        output=image.output_for(labels),
        labels=labels or image.only_label,
        marks=_marks(group),
        item_index=index,
        original_size=_original_size(last),
    )


def first_task(body: Any) -> Mapping[str, Any]:
    """The request's task.

    Raises:
        RequestError: There is none.
    """
    tasks = _get(body, "tasks", list)
    if not tasks:
        raise RequestError("tasks is empty: send the task that is being annotated")
    return _mapping(tasks[0], "tasks[0]")


def task_id(task: Mapping[str, Any]) -> str:
    """A task's id, fit for a line of a log; empty where it has none.

    Raises:
        RequestError: Neither a number nor a short text.
    """
    value = task.get("id", "")
    text = value if isinstance(value, str) else str(value) if value is None or isinstance(value, int | float) else None
    if text is None or len(text) > _LONGEST_ID or not text.isprintable():
        raise RequestError(f"tasks[0].id must be a number or a short text, got {_brief(value)}")
    return text


def answer(
    request: InteractiveRequest, mask: MaskRuns, score: float, max_points: int, model: str | None = None
) -> list[dict[str, Any]]:
    """The regions to answer with; none for an empty mask. Their ids tell which model made it, where it is named."""
    if not mask:
        return []
    height, width = mask.size
    output = request.output
    common: dict[str, Any] = {
        "to_name": request.image.name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(score, 4),
        "origin": "prediction",
    }
    if request.item_index is not None:
        common["item_index"] = request.item_index
    if output.polygon:
        filled = CleanUp(fill_holes=height * width).tidied(mask)  # Label Studio's polygons have no holes
        shapes = [{"points": _percent(p, height, width), "closed": True} for p in mask_to_polygons(filled, max_points)]
    else:
        shapes = [{"format": "rle", "rle": rle.encode(mask)}]
    regions = []
    identity = request.region_id if model is None else f"{request.region_id}v{version_tag(model)}"
    for number, shape in enumerate(shapes):
        region = {**common, "id": identity + (f"-{number}" if number else "")}
        if output.labels_name is None:
            value = {**shape, output.kind: [*request.labels]} if request.labels else shape
            regions.append({**region, "from_name": output.name, "type": output.kind, "value": value})
            continue
        regions.append({**region, "from_name": output.name, "type": output.kind, "value": shape})
        if request.labels:
            value = {**shape, "labels": [*request.labels]}
            regions.append({**region, "from_name": output.labels_name, "type": "labels", "value": value})
    return regions


def _percent(polygon: Polygon, height: int, width: int) -> list[list[float]]:
    """The outer ring."""
    points: list[list[float]] = (polygon.exterior * (100 / np.array([width, height]))).tolist()
    return points


def _marks(items: Sequence[Mapping[str, Any]]) -> tuple[Mark, ...]:
    """Regions as marks; with unified labels each comes twice under one id."""
    marks: dict[str, Mark] = {}
    for number, item in enumerate(items):
        value = _get(item, "value", Mapping)
        kind = _text(item, "type")
        identity = item.get("id")
        key = identity if isinstance(identity, str) and identity else f"#{number}"
        if key in marks:
            if not _positive(item):
                marks[key] = dataclasses.replace(marks[key], positive=False)
            continue
        x, y = _number(value, "x"), _number(value, "y")
        if "rectangle" in kind or (kind == "labels" and "height" in value):
            size = _number(value, "width"), _number(value, "height")
            marks[key] = Mark(key, x, y, size=size, rotation=_number(value, "rotation", 0.0))
        elif "keypoint" in kind or kind == "labels":
            _check_on_image(x, y)
            marks[key] = Mark(key, x, y, _positive(item))
        else:
            raise RequestError(
                f"a region of type {_brief(kind)} is not a click: use the smart KeyPoint or Rectangle tool"
            )
    if len(marks) > _MOST_POINTS:
        raise RequestError(f"{len(marks)} clicks are more than the {_MOST_POINTS} that one object may have")
    return tuple(marks.values())


def _check_on_image(x: float, y: float) -> None:
    if not (-_SLACK <= x <= 100 + _SLACK and -_SLACK <= y <= 100 + _SLACK):
        raise RequestError(f"the click ({x:g}%, {y:g}%) lies outside the image")


def _positive(item: Mapping[str, Any]) -> bool:
    """Whether a click is on the object; one that does not say is."""
    positive = item.get("is_positive")
    if positive is not None and not isinstance(positive, bool):
        raise RequestError(f"is_positive must be true or false, got {_brief(positive)}")
    return positive is not False


def _labels(items: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The labels of the last region that has any."""
    for item in reversed(items):
        value = item.get("value")
        if not isinstance(value, Mapping):
            continue
        for key in (_text(item, "type"), "labels", "keypointlabels", "rectanglelabels"):
            names = value.get(key)
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()


def _brief(value: Any) -> str:
    """A value as an error may quote it."""
    return reprlib.repr(value)


def _box(mark: Mark, height: int, width: int) -> Box:
    assert mark.size is not None
    angle = math.radians(mark.rotation)
    # Percent are of unlike lengths: turn in pixels.
    left, top = mark.x * width / 100, mark.y * height / 100
    across, down = mark.size[0] * width / 100, mark.size[1] * height / 100
    corners = [
        (left + u * math.cos(angle) - v * math.sin(angle), top + u * math.sin(angle) + v * math.cos(angle))
        for u, v in ((0, 0), (across, 0), (0, down), (across, down))
    ]
    try:
        box = Box(*(min(c[i] for c in corners) for i in (0, 1)), *(max(c[i] for c in corners) for i in (0, 1)))
        box.pixels(height, width)
    except PromptError as error:
        raise RequestError(f"the rectangle cannot be used: {error}") from error
    return box


def _original_size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = item.get("original_width"), item.get("original_height")
    if width is None or height is None:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e6 for v in (width, height)):
        raise RequestError(
            f"original_width and original_height must be numbers of pixels, got {_brief(width)} and {_brief(height)}"
        )
    return round(width), round(height)


def _index(item: Mapping[str, Any]) -> int | None:
    index = item.get("item_index")
    if index is None:
        return None
    if type(index) is not int:
        raise RequestError(f"item_index must be a whole number, got {_brief(index)}")
    return index


def _number(value: Mapping[str, Any], key: str, default: float | None = None) -> float:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= 1e6:  # NaN is not, either
        raise RequestError(f"value.{key} must be a number, got {_brief(found)}")
    return float(found)


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{where} must be an object, got {type(value).__name__}")
    return value


def _get(body: Any, key: str, kind: type, default: Any = None) -> Any:
    value = _mapping(body, "the body").get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        raise RequestError(f"{key} must be a {_NAMES.get(kind, kind.__name__)}, got {type(value).__name__}")
    return value


_NAMES: dict[Any, str] = {Mapping: "JSON object", str: "text", list: "list"}
