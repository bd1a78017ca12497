"""What a labelling config says: which tool draws on which image, and in which form an answer goes back."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from icmformer.serving.errors import RequestError

from .config_tree import FIELD, Tag, read_page, repeated, task_value

_LABELLED = frozenset({"brushlabels", "polygonlabels"})
_PLAIN = frozenset({"brush", "polygon"})
DRAWING = _LABELLED | _PLAIN
"""The controls that answers are drawn with."""
_SMALL = 1 << 16  # characters of a config whose tags are kept
_MOST_IMAGES = 1000
_MOST_LABELS = 10_000  # of a list in a task
_MOST_DRAWN = 100_000  # of all controls, the images that each is for
_MOST_JOINED = 200_000  # of all controls that have some labels of their own and some from the task


@dataclass(frozen=True)
class Output:
    """The control that answers are drawn with.

    Attributes:
        name: The control's name, `from_name` of a result.
        kind: `brushlabels`, `polygonlabels`, or `brush` and `polygon`, whose label is a result of its own.
        labels: Label names the control knows; for the plain kinds those of `labels_name`.
        labels_name: Name of the `Labels` control beside a plain one; None where the control has labels itself.
        open: Whether it has labels from the task, and no task was given to read them from.
    """

    name: str
    kind: str
    labels: frozenset[str]
    labels_name: str | None = None
    open: bool = False

    @property
    def polygon(self) -> bool:
        """Whether answers are polygons rather than brush masks."""
        return self.kind.startswith("polygon")


@dataclass(frozen=True)
class ImageTag:
    """An image of the labelling page.

    Attributes:
        name: The tag's name, `to_name` of a result.
        value: Its `value` or `valueList`, `$field` for a field of the task.
        several: Whether it is a `valueList`: a click then names its image by index.
        outputs: Controls that can draw an answer on it, in the config's order.
    """

    name: str
    value: str
    several: bool
    outputs: tuple[Output, ...]

    @property
    def only_label(self) -> tuple[str, ...]:
        """The label of an answer to a click without one: the config's, where it has but one."""
        labels = frozenset().union(*{id(output.labels): output.labels for output in self.outputs}.values())
        return tuple(labels) if len(labels) == 1 else ()

    def output_for(self, labels: tuple[str, ...]) -> Output:
        """The control for an answer with these labels.

        Raises:
            RequestError: No brush or polygon control for this image, or none that knows the labels.
        """
        if not self.outputs:
            raise RequestError(
                f"the labelling config has no BrushLabels, PolygonLabels, Brush or Polygon for {self.name!r}: add one, "
                "the mask is returned in one of them"
            )
        fitting = next((output for output in self.outputs if output.labels.issuperset(labels)), None)
        if fitting is None:
            raise RequestError(
                f"the label {', '.join(labels)[:100]!r} is in the smart tool's labels but in none of "
                f"{some(o.name for o in self.outputs)}: give both controls the same labels"
            )
        return fitting


def read_config(text: str, data: Mapping[str, Any] | None = None) -> Mapping[str, ImageTag]:
    """The images of a labelling config by name.

    Args:
        text: The config.
        data: The data of the task that is on the page, for Repeaters and for labels that come from the task. Without
            it each Repeater has one entry, and such labels are not known.

    Raises:
        RequestError: Not a labelling config, or one without an image; a task that makes too much of it.
    """
    images = _alike(text)
    if images is None:
        images = _images(_Task(data), repeated(_tags(text), data))
    return images


def page_of(text: str) -> Tag:
    """All tags of a config, as they are without a task.

    Raises:
        RequestError: As `read_config`.
    """
    return repeated(read_page(text), None)


def some(names: Iterable[str]) -> str:
    """Names as an error may list them: on one line, and not all of very many."""
    listed = [*names]
    return ", ".join(map(reprlib.repr, listed[:8])) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


def drawn_on(tag: Tag) -> list[str]:
    """The images that a control is for."""
    return list(dict.fromkeys(name.strip() for name in (tag.get("toname") or "").split(",")))


def label_names(tag: Tag) -> frozenset[str]:
    """The labels that a config gives a control, as answers name them."""
    return frozenset(t.get("alias") or t.get("value") or "" for t in tag.tags() if t.kind == "label")


def labels_from_task(tag: Tag) -> str | None:
    """The `value` of a control whose labels come, all or some, from the task's data; None where none do."""
    value = tag.get("value") if tag.kind.endswith("labels") else None
    return value if value and FIELD.fullmatch(value) else None


@lru_cache(maxsize=64)
def _alike(text: str) -> Mapping[str, ImageTag] | None:
    """The images of a config that reads alike for all tasks; None for one that does not."""
    page = read_page(text)
    if any(tag.kind == "repeater" or labels_from_task(tag) for tag in page.tags()):
        return None
    return _images(_Task(None), page)


def _tags(text: str) -> Tag:
    return _kept(text) if len(text) <= _SMALL else read_page(text)


_kept = lru_cache(maxsize=32)(read_page)


class _Task:
    """The labels that a task has for controls; each of its lists is read once, however many controls name it."""

    def __init__(self, data: Mapping[str, Any] | None) -> None:
        self._data = data
        self._read: dict[int, frozenset[str]] = {}
        self._joined = 0

    def labels(self, tag: Tag) -> tuple[frozenset[str], bool]:
        """The labels of a control, and whether it may have others that are not known."""
        written, value = label_names(tag), labels_from_task(tag)
        if value is None or self._data is None:
            return written, value is not None
        entries = task_value(value, self._data)
        if not isinstance(entries, list):
            return written, False
        if len(entries) > _MOST_LABELS:
            raise RequestError(
                f"the task has {len(entries)} labels in {value[:100]!r}; at most {_MOST_LABELS} are supported"
            )
        if id(entries) not in self._read:
            named = [e.get("alias") or e.get("value") for e in entries if isinstance(e, Mapping)]
            self._read[id(entries)] = frozenset(name for name in named if isinstance(name, str))
        given = self._read[id(entries)]
        if not written:
            return given, False
        self._joined += len(given)
        if self._joined > _MOST_JOINED:
            raise RequestError(f"too many controls have labels of their own and those of {value[:100]!r}")
        return written | given, False


def _images(task: _Task, page: Tag) -> dict[str, ImageTag]:
    tags = {}
    for tag in page.tags():
        name, several = tag.get("name"), tag.get("valuelist")
        value = several or tag.get("value")
        if tag.kind == "image" and name and value:
            tags[name] = value, bool(several)
    if not tags:
        raise RequestError(
            "the labelling config has no <Image name=... value=...> for this task: this backend segments images"
        )
    if len(tags) > _MOST_IMAGES:
        raise RequestError(f"the labelling config has {len(tags)} images; at most {_MOST_IMAGES} are supported")
    outputs = _outputs(task, page, tags)
    return {name: ImageTag(name, *facts, tuple(outputs[name])) for name, facts in tags.items()}


class _Drawing:
    """Which images controls draw on; a list of them is read once, however many controls a Repeater makes of one."""

    def __init__(self, images: Iterable[str]) -> None:
        self._images = frozenset(images)
        self._read: dict[str, list[str]] = {}
        self._pairs = 0

    def on(self, tag: Tag) -> list[str]:
        """The page's images that a control is for."""
        names = tag.get("toname") or ""
        if names not in self._read:
            self._read[names] = [name for name in drawn_on(tag) if name in self._images]
        drawn = self._read[names]
        self._pairs += len(drawn)
        if self._pairs > _MOST_DRAWN:
            raise RequestError(
                f"the controls of the labelling config are for over {_MOST_DRAWN:,} images together; draw each on fewer"
            )
        return drawn


def _outputs(task: _Task, page: Tag, images: Iterable[str]) -> dict[str, list[Output]]:
    """The controls that can draw an answer, by image; each tag is read once, however many images there are."""
    found: dict[str, list[Output]] = {image: [] for image in images}
    drawing = _Drawing(found)
    labels: dict[str, tuple[frozenset[str], str | None, bool]] = {}  # of the first Labels control of an image
    for tag in page.tags():
        drawn = [image for image in drawing.on(tag) if image not in labels] if tag.kind == "labels" else []
        if drawn:
            names, more = task.labels(tag)
            labels |= dict.fromkeys(drawn, (names, tag.get("name"), more))
    for tag in page.tags():
        name = tag.get("name")
        if tag.kind not in DRAWING or not name:
            continue
        drawn = drawing.on(tag)
        if tag.kind in _PLAIN:
            for image in drawn:
                found[image].append(Output(name, tag.kind, *labels.get(image, (frozenset(), None, False))))
        elif drawn:
            names, more = task.labels(tag)
            output = Output(name, tag.kind, names, open=more)
            for image in drawn:
                found[image].append(output)
    return found
