"""Where the image of a task is: the address that its data holds under the name that the labelling config says."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from icmformer.serving.errors import RequestError

from .config_tree import FIELD, lookup
from .labelling_config import ImageTag

_LONGEST_ADDRESS = 8192  # of one that is put together from a template


def image_url(task: Mapping[str, Any], image: ImageTag, index: int | None) -> str:
    """Where a task's image is.

    Raises:
        RequestError: The task has no such field, or no image at that index.
    """
    value: Any = image.value
    if "$" in image.value:
        data = task.get("data")
        if not isinstance(data, Mapping):
            raise RequestError(f"tasks[0].data must be an object, got {type(data).__name__}")
        found = FIELD.fullmatch(image.value)
        if found:
            value, rest = _field(data, found[1], image.name)
            value = f"{value}{rest}" if rest else value
        else:  # a template, as in https://photos.example.org/$name.jpg
            value = _filled(image, data)
    if isinstance(value, list):
        # The page shows the first of a list in `value` and says no number; of a `valueList` it says which.
        place = 0 if index is None and (len(value) == 1 or not image.several) else index
        if place is None or not 0 <= place < len(value):
            raise RequestError(
                f"the click names no image of the {len(value)} in {reprlib.repr(image.name)} (item_index is {index})"
            )
        value = value[place]
    if not isinstance(value, str) or not value:
        raise RequestError(f"the image {reprlib.repr(image.name)} must be an address, got {type(value).__name__}")
    if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise RequestError(
            f"the address of the image {reprlib.repr(image.name)} is not valid text: it has an unpaired surrogate"
        )
    return value


def _field(data: Mapping[str, Any], path: str, image: str) -> tuple[Any, str]:
    """The value at the longest beginning of a path that leads to one, and the rest of the path."""
    value, rest = lookup(data, path)
    if value is None or (rest and not isinstance(value, str | int | float)):
        raise RequestError(
            f"the task's data has no field {reprlib.repr(path)}, which holds the image {reprlib.repr(image)}"
        )
    return value, rest


def _filled(image: ImageTag, data: Mapping[str, Any]) -> str:
    """A template with the task's fields in the places of their names."""
    pieces, end, length = [], 0, 0
    for found in (*FIELD.finditer(image.value), None):
        pieces.append(image.value[end : found.start() if found else None])
        if found:
            field, rest = _field(data, found[1], image.name)
            if not isinstance(field, str | int | float):
                raise RequestError(
                    f"{reprlib.repr(found[0])} in the image {reprlib.repr(image.name)} must be a text or a number"
                )
            pieces.append(f"{field}{rest}")
            end = found.end()
        length += sum(map(len, pieces[-2:]))
        if length > _LONGEST_ADDRESS:
            raise RequestError(
                f"the address of the image {reprlib.repr(image.name)} has over {_LONGEST_ADDRESS} characters"
            )
    return "".join(pieces)
