"""A labelling config as Label Studio's page reads it: names in any case, a Repeater's content once for each entry.

It follows the page's own code (version 1.23.2: `core/Tree.tsx`, `utils/data.js`), and differs where that would let a
small request grow: what is made of a config and a task together is bounded.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from xml.sax.saxutils import escape

from icmformer.serving.errors import RequestError

FIELD = re.compile(r"\$([\w\[\].{}]+)")
"""A field of the task in an attribute, as in `$images[0].url`."""
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^.\[\]]+)\]")
_PLACE = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_LONGEST = 1 << 20
_DEEPEST = 50  # tags within tags: what is read from the text must not grow faster than the text
_MOST_ENTRIES = 1000  # of one Repeater
_MOST_TAGS = 400_000  # tags and attributes that Repeaters may make
_MOST_TEXT = 8 << 20  # characters that Repeaters may read and write for it


@dataclass(frozen=True)
class Tag:
    """A tag of a labelling config.

    Attributes:
        kind: Its name in small letters.
        attributes: By their names in small letters.
        children: The tags in it.
        text: What it holds instead of tags, as XML.
        size: How many tags and attributes it is, with all within it.
    """

    kind: str
    attributes: Mapping[str, str]
    children: tuple[Tag, ...] = ()
    text: str = ""
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", 1 + len(self.attributes) + sum(child.size for child in self.children))

    def get(self, name: str) -> str | None:
        """An attribute; None where it is missing. Text in a tag counts as its value."""
        if name == "value" and self.text:
            return self.text
        return self.attributes.get(name)

    def tags(self) -> Iterator[Tag]:
        """Itself and all tags within it, in the order of the text."""
        waiting = [self]
        while waiting:
            tag = waiting.pop()
            yield tag
            waiting += reversed(tag.children)


def read_page(text: str) -> Tag:
    """The tags of a labelling config, with Repeaters as they are written.

    Raises:
        RequestError: Not XML, or beyond reason.
    """
    if len(text) > _LONGEST or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise RequestError("the labelling config is too long, or declares entities")
    root: ElementTree.Element | None = None
    depth = 0
    try:
        for event, tag in ElementTree.iterparse(io.StringIO(text), ("start", "end")):
            root = tag if root is None else root
            depth += 1 if event == "start" else -1
            if depth > _DEEPEST:
                raise RequestError(f"the labelling config has more than {_DEEPEST} tags within each other")
    except (ElementTree.ParseError, ValueError) as error:  # ValueError: an unpaired surrogate
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"the labelling config is not XML: {error}") from error
    assert root is not None  # no text without a tag is XML
    return _tag(root)


def repeated(page: Tag, data: Mapping[str, Any] | None) -> Tag:
    """The page for a task: a Repeater's content once for each entry of its list, with the entry's number put in.

    Args:
        page: The tags as written.
        data: The task's data; None where no task is known: each Repeater then has one entry.

    Raises:
        RequestError: More tags, or longer ones, than any page has.
    """
    return _Repeats(data).read(page, {})


def lookup(data: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """The value at the longest beginning of a path that leads to one, and the rest of the path.

    Args:
        data: A task's data.
        path: As in `images[0].url`; a field of that very name comes first.

    Returns:
        The value, None where nothing of the path leads anywhere, and what is left of the path.
    """
    if data.get(path) is not None:
        return data[path], ""
    value: Any = data
    end = 0
    while end < len(path) and (step := _STEP.match(path, end)):
        inner = _inner(value, step[1] or step[2])
        if inner is None:
            break
        value, end = inner, step.end()
    return (value if end else None), path[end:]


def task_value(value: str, data: Mapping[str, Any]) -> Any:
    """What an attribute stands for in a task: the value of its field, or itself; None where the task has none."""
    found = FIELD.fullmatch(value)
    if not found:
        return value
    inner, rest = lookup(data, found[1])
    return None if rest else inner


def _inner(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and _PLACE.fullmatch(step) and int(step) < len(value):
        return value[int(step)]
    return None


def _tag(element: ElementTree.Element) -> Tag:
    attributes = {name.lower(): value for name, value in element.attrib.items()}
    children = tuple(_tag(child) for child in element)
    text = "" if children else escape((element.text or "").strip())
    return Tag(element.tag.lower(), attributes, children, text)


class _Repeats:
    """Makes a task's page out of a config, and counts what it makes."""

    def __init__(self, data: Mapping[str, Any] | None) -> None:
        self._data = data
        self._tags = self._text = 0
        self._seen: dict[tuple[int, str], tuple[Tag, tuple[str, ...], bool]] = {}

    def read(self, tag: Tag, numbers: Mapping[str, str]) -> Tag:
        """A tag as the page has it.

        Args:
            tag: As written, with the numbers of the Repeaters around it put in.
            numbers: Those of the Repeaters right around it, by their flags: into the attributes of an entry's outermost
                tags the page puts the number a second time.
        """
        for flag, number in numbers.items():
            tag = self._numbered(tag, flag, number)
        if tag.kind != "repeater":
            children = tuple(self.read(child, {}) for child in tag.children)
            same = all(read is written for read, written in zip(children, tag.children, strict=True))
            return tag if same else replace(tag, children=children)
        given = tag.get("indexflag")
        flag = "{{idx}}" if given is None else given
        entries = []
        for index in range(self._count(tag)):
            self._made(1, 0)
            number = str(index)
            here = {**numbers, flag: number}
            children = tuple(self.read(self._deeply(child, flag, number), here) for child in tag.children)
            entries.append(Tag("view", {}, children))
        return Tag("view", {}, tuple(entries))

    def _count(self, tag: Tag) -> int:
        if self._data is None:
            return 1
        entries = task_value(tag.get("on") or "", self._data)
        count = len(entries) if isinstance(entries, list | str) else 0
        if count > _MOST_ENTRIES:
            raise RequestError(
                f"a Repeater of the labelling config has {count} entries here; at most {_MOST_ENTRIES} are supported"
            )
        return count

    def _deeply(self, tag: Tag, flag: str, number: str) -> Tag:
        """A tag and all within it with an entry's number; what has no place for it is shared, not copied."""
        names, within = self._places(tag, flag)
        if not names and not within:
            self._made(tag.size, 0)
            return tag
        self._made(1 + len(tag.attributes), 0)
        tag = self._numbered(tag, flag, number)
        return replace(tag, children=tuple(self._deeply(child, flag, number) for child in tag.children))

    def _numbered(self, tag: Tag, flag: str, number: str) -> Tag:
        """A tag with an entry's number at the first place for it in each attribute."""
        names, _ = self._places(tag, flag)
        if not names:
            return tag
        changed = {name: tag.attributes[name].replace(flag, number, 1) for name in names}
        self._made(0, sum(map(len, changed.values())))
        return replace(tag, attributes={**tag.attributes, **changed})

    def _places(self, tag: Tag, flag: str) -> tuple[tuple[str, ...], bool]:
        """The attributes of a tag that a flag is in, and whether it is in any tag within; each tag is read once."""
        known = self._seen.get((id(tag), flag))
        if known is None:
            self._made(0, sum(map(len, tag.attributes.values())))
            names = tuple(name for name, value in tag.attributes.items() if flag in value)
            within = [any(self._places(child, flag)) for child in tag.children]
            known = self._seen[id(tag), flag] = tag, names, any(within)  # with the tag: its id is taken while it lives
        return known[1:]

    def _made(self, tags: int, text: int) -> None:
        self._tags += tags
        self._text += text
        if self._tags > _MOST_TAGS or self._text > _MOST_TEXT:
            raise RequestError(
                "the Repeaters of the labelling config make too many tags of this task: give each task fewer entries"
            )
