"""A labelling config: which key of a task's data holds the photo of an image tag."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..annotations import AnnotationError

_FIELD = re.compile(r"\$([\w\[\].]+)")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^.\[\]]+)\]")
_PLACE = re.compile(r"[0-9]{1,9}")
_LONGEST = 1 << 20
_DEEPEST = 100
_FLAG = "{{idx}}"


@dataclass(frozen=True)
class _Named:
    """A tag whose name may hold the numbers of Repeaters."""

    pattern: re.Pattern[str]
    flags: tuple[str, ...]
    value: str

    def read(self, name: str) -> str | None:
        """The value for a name, with the name's numbers put in; None if the name is another's."""
        found = self.pattern.fullmatch(name)
        if not found:
            return None
        value = self.value
        for flag, number in zip(self.flags, found.groups(), strict=True):
            value = value.replace(flag, number)
        return value


class LabellingConfig:
    """The image tags of a config and the controls that draw on them; tag and attribute names in any case.

    Args:
        text: XML.

    Raises:
        AnnotationError: It is no labelling config, or has no image.
    """

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST or "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise AnnotationError("the labelling config is too long, or declares entities; give the config itself")
        try:
            root = ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            raise AnnotationError(f"the labelling config is not XML: {error}") from error
        self._images: list[_Named] = []
        self._controls: list[_Named] = []
        for kind, attributes, flags in _tags(root, (), 0):
            name, value = attributes.get("name"), attributes.get("valuelist") or attributes.get("value")
            if kind == "image" and name and value:
                self._images.append(_named(name, value, flags))
            elif name and attributes.get("toname"):
                self._controls.append(_named(name, attributes["toname"], flags))
        if not self._images:
            raise AnnotationError("the labelling config has no <Image name=... value=...>")

    def value(self, to_name: str | None, from_name: str | None) -> str | None:
        """The `value` or `valueList` of the image that a region is on; None where the config does not tell.

        Args:
            to_name: The image's name.
            from_name: The control's name, which counts where there is no `to_name`.
        """
        if to_name is None and from_name is not None:
            on = next((names for control in self._controls if (names := control.read(from_name)) is not None), "")
            to_name = on if "," not in on and on else None
        if to_name is None:
            return self._images[0].value if len(self._images) == 1 and not self._images[0].flags else None
        return next((value for image in self._images if (value := image.read(to_name)) is not None), None)


def _tags(
    root: ElementTree.Element, flags: tuple[str, ...], depth: int
) -> Iterator[tuple[str, dict[str, str], tuple[str, ...]]]:
    if depth > _DEEPEST:
        raise AnnotationError(f"the labelling config has more than {_DEEPEST} tags within each other")
    attributes = {name.lower(): value for name, value in root.attrib.items()}
    kind = root.tag.lower()
    yield kind, attributes, flags
    inner = (*flags, attributes.get("indexflag") or _FLAG) if kind == "repeater" else flags
    for child in root:
        yield from _tags(child, inner, depth + 1)


def _named(name: str, value: str, flags: tuple[str, ...]) -> _Named:
    """A name with numbers in the places of the flags in it."""
    here: list[str] = []
    pattern, place = "", 0
    for found in re.finditer("|".join(map(re.escape, flags)) or r"(?!)", name):
        known = found[0] in here
        pattern += re.escape(name[place : found.start()]) + (f"(?P=n{here.index(found[0])})" if known else "")
        if not known:
            pattern += f"(?P<n{len(here)}>[0-9]{{1,6}})"
            here.append(found[0])
        place = found.end()
    return _Named(re.compile(pattern + re.escape(name[place:])), tuple(here), value)


def task_value(value: str, data: Mapping[str, Any]) -> Any:
    """What an attribute stands for in a task: the value of its field, a text with fields put in; None for none.

    Args:
        value: As in the config: `$image`, `$images[0].url`, `https://host/$name`.
        data: The task's data.
    """
    whole = _FIELD.fullmatch(value)
    if whole:
        return _with_rest(*_lookup(data, whole[1]))
    pieces, place = [], 0
    for found in _FIELD.finditer(value):
        inner = _with_rest(*_lookup(data, found[1]))
        if not isinstance(inner, str | int):
            return None
        pieces += [value[place : found.start()], str(inner)[:_LONGEST]]
        place = found.end()
    return "".join([*pieces, value[place:]])


def _with_rest(value: Any, rest: str) -> Any:
    return (f"{value}{rest}" if isinstance(value, str | int) else None) if rest else value


def _lookup(data: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """The value at the longest beginning of a path that leads to one, and the rest of the path."""
    if data.get(path) is not None:
        return data[path], ""
    value: Any = data
    end = 0
    while step := _STEP.match(path, end):
        name = step[1] or step[2]
        if isinstance(value, Mapping):
            inner = value.get(name)
        elif isinstance(value, list) and _PLACE.fullmatch(name) and int(name) < len(value):
            inner = value[int(name)]
        else:
            inner = None
        if inner is None:
            break
        value, end = inner, step.end()
    return (value if end else None), path[end:]
