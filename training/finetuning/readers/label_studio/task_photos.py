"""Which photo of a task a region is on: told by the labelling config, or by the export where it is unambiguous."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ..annotations import BadAnnotationError
from ..photo_finder import NO_PHOTO, PhotoFinder, data_address, fits
from ..reading_report import ReadingReport
from .addresses import as_uploaded, is_data, may_be_photo, names, without_prefix
from .config import LabellingConfig, task_value
from .fetched import AddressBook

NOT_TOLD = "which photo is meant is not told"
_HELP = "give the project's labelling config with --label-config"
_NUMBERED = re.compile(r"(.*?)(\d{1,6})", re.DOTALL)
_MOST_ENTRIES = 10_000
_DEEPEST = 20


@dataclass(frozen=True)
class Target:
    """What a region says of the image it is on.

    Attributes:
        to_name: Name of the image tag; None where the export does not have it (JSON-MIN).
        from_name: Name of the control.
        index: Place in a list of images; None for none.
        size: Height and width of the image.
    """

    to_name: str | None
    from_name: str | None = None
    index: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """A photo: its address, for people, and the file or its bytes."""

    identity: str
    file: Path | bytes


class Uploads:
    """Finds photos whose names Label Studio changed as they were uploaded.

    Args:
        finder: Knows the files; None where there are none.
    """

    def __init__(self, finder: PhotoFinder | None) -> None:
        self._finder = finder

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        known: dict[str, list[str]] = {}
        for name, _ in self._finder.paths() if self._finder else ():
            known.setdefault(as_uploaded(PurePosixPath(name).name), []).append(name)
        return known

    def paths(self, address: str) -> list[str]:
        """Paths below the folder of the one file that may have been uploaded to an address; else none."""
        for name in names(address):
            found = self._by_name.get(as_uploaded(bare), []) if (bare := without_prefix(name)) else []
            if len(found) == 1:
                return found
        return []


@dataclass(frozen=True)
class Images:
    """What is known of the image tags of an export's project.

    Attributes:
        uploads: Finds photos under the names that they had before.
        names: Names of those that regions are on.
        config: The labelling config.
    """

    uploads: Uploads
    names: frozenset[str | None]
    config: LabellingConfig | None = None

    def number(self, to_name: str | None) -> int | None:
        """The number that a Repeater gave to a name: the last in it, if the export has this name with a zero too."""
        found = _NUMBERED.fullmatch(to_name or "")
        return int(found[2]) if found and f"{found[1]}0" in self.names else None


@dataclass(frozen=True)
class _Entry:
    """A text of a task that may be a photo's address.

    Attributes:
        key: Of the data: `image`, `a.b`, `images[2].url`.
        address: The text.
        place: In the list that it is from; None for none.
        listed: It is itself an entry of a list, as a `valueList` has it.
    """

    key: str
    address: str
    place: int | None = None
    listed: bool = False


class TaskPhotos:
    """Finds the photos of one task.

    Args:
        data: The task's data.
        finder: Finds files, or notes addresses that are fetched later.
        images: What is known of the project.
        name: Of the task, for people.
        report: Is told of decisions.
        number: Of the task, as Label Studio has it.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        finder: PhotoFinder | AddressBook,
        images: Images,
        name: str,
        report: ReadingReport,
        number: str = "",
    ) -> None:
        self._data, self._finder, self._images, self._name, self._report = data, finder, images, name, report
        self._number = number
        self._entries = [entry for entry in _entries(data, "", None, 0) if may_be_photo(entry.address)]
        self._known: dict[Target, Found | BadAnnotationError] = {}

    def find(self, target: Target) -> Found:
        """The photo that a region is on.

        Raises:
            BadAnnotationError: It is not in the folder, or nothing tells which one it is.
        """
        if target not in self._known:
            try:
                self._known[target] = self._find(target)
            except BadAnnotationError as error:
                self._known[target] = error
        known = self._known[target]
        if isinstance(known, BadAnnotationError):
            raise BadAnnotationError(known.kind, known.text)
        return known

    def _find(self, target: Target) -> Found:
        if self._images.config is not None:
            value = self._images.config.value(target.to_name, target.from_name)
            if value is None:
                named = target.to_name if target.to_name is not None else target.from_name
                raise BadAnnotationError(NOT_TOLD, f"the labelling config does not say it of {str(named)[:80]!r}")
            return self._told(task_value(value, self._data), f"key {value[:80]!r}", target)
        return self._guessed(target)

    def _told(self, value: Any, key: str, target: Target) -> Found:
        """The photo of a value of the data that is known to hold it."""
        if not isinstance(value, list):
            return self._load(value, target, key)
        if target.index is None and target.to_name is None and len(value) > 1:  # JSON-MIN drops the index
            every = [entry for entry in _entries(value, key, None, 0) if entry.listed]
            return self._one(every, target)
        place = target.index or 0  # the page shows the first of a list if there is no number
        if not 0 <= place < len(value):
            raise BadAnnotationError(NOT_TOLD, f"item_index is {place}, and {key} has {len(value)} images")
        return self._load(value[place], target, f"{key}[{place}]")

    def _guessed(self, target: Target) -> Found:
        entries = self._of_place(target)
        if not entries:
            raise BadAnnotationError(NO_PHOTO, "the task has no address of a photo")
        if len(entries) == 1:
            return self._load(entries[0].address, target, entries[0].key)
        if target.to_name is not None:
            called = [entry for entry in entries if entry.key == target.to_name]
            if len(called) == 1:
                found = self._load(called[0].address, target, called[0].key)
                if target.size is None or _fits(found.file, target.size):
                    return found
        return self._one(entries, target)

    def _of_place(self, target: Target) -> list[_Entry]:
        """The texts that may be meant, by the region's place in a list of images."""
        listed = any(entry.listed for entry in self._entries)
        if target.index is not None and listed:
            return [entry for entry in self._entries if entry.listed and entry.place == target.index]
        if target.to_name is None:
            return self._entries
        number = self._images.number(target.to_name)
        if number is not None and any(entry.place is not None for entry in self._entries):
            return [entry for entry in self._entries if entry.place == number]
        if _NUMBERED.fullmatch(target.to_name):
            return self._entries
        return [entry for entry in self._entries if not entry.listed or entry.place == 0]

    def _one(self, entries: list[_Entry], target: Target) -> Found:
        """The one of several photos that can be meant.

        Raises:
            BadAnnotationError: There is none, or more than one.
        """
        found: dict[Path | bytes, tuple[str, Found]] = {}
        missing = 0
        for entry in entries:
            try:
                photo = self._load(entry.address, target, entry.key)
            except BadAnnotationError as error:
                missing += 1
                if error.kind != NO_PHOTO:
                    raise
            else:
                found.setdefault(photo.file, (entry.key, photo))
        if not found:
            raise BadAnnotationError(NO_PHOTO, f"none of {len(entries)} addresses is in {self._finder.folder}")
        if len(found) == 1 and not missing:
            return next(iter(found.values()))[1]
        size = target.size
        fitting = [pair for file, pair in found.items() if size is not None and _fits(file, size)]
        sure = not missing or (len(self._images.names) == 1 and target.to_name is not None)
        if len(fitting) == 1 and sure:
            key, photo = fitting[0]
            name = f"{target.to_name or target.from_name} of {self._name}"
            self._report.decide("photo of several, told by its size", name, key)
            return photo
        keys = ", ".join(entry.key[:40] for entry in entries[:5])
        advice = _HELP if target.to_name is not None else f"export the project as JSON, which says more, or {_HELP}"
        raise BadAnnotationError(NOT_TOLD, f"it may be {keys}: {advice}")

    def _load(self, address: Any, target: Target, key: str) -> Found:
        if not isinstance(address, str):
            raise BadAnnotationError(NO_PHOTO, f"{key} of the task is no address, but {type(address).__name__}")
        if is_data(address):
            content = data_address(address)
            assert content is not None
            return Found(f"{self._name}, {key}", content)
        if isinstance(self._finder, AddressBook):
            if not address.strip():
                raise BadAnnotationError(NO_PHOTO, f"{key} of the task is empty")
            return Found(address[:1000], self._finder.place(address, self._number))
        for name in [*names(address), *self._images.uploads.paths(address)]:
            try:
                return Found(address[:1000], self._finder.find(name, target.size))
            except BadAnnotationError as error:
                if error.kind != NO_PHOTO:
                    raise
        raise BadAnnotationError(
            NO_PHOTO, f"{address[:200]} is not in {self._finder.folder}; name the folder of the photos with --images"
        )


def _entries(value: Any, key: str, place: int | None, depth: int) -> Iterator[_Entry]:
    """All texts of a task's data."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        yield _Entry(key, value, place)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _entries(inner, f"{key}.{name}" if key else str(name)[:100], place, depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value[:_MOST_ENTRIES]):
            if isinstance(inner, str):
                yield _Entry(f"{key}[{number}]", inner, number, listed=True)
            else:
                yield from _entries(inner, f"{key}[{number}]", number, depth + 1)


def _fits(file: Path | bytes, size: tuple[int, int]) -> bool:
    if isinstance(file, Path):
        return file.exists() and fits(file, size)
    try:
        with Image.open(io.BytesIO(file)) as image:
            return size in (image.size, image.size[::-1])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
