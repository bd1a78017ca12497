"""What annotators kept: Label Studio's webhook sends an annotation when it is saved, and our answers' ids are in it.

Nothing is remembered from one save to the next: whichever replica hears of a save, it makes the same of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icmformer.serving.errors import RequestError

_CREATED, _UPDATED = "ANNOTATION_CREATED", "ANNOTATION_UPDATED"
_OURS = re.compile(r"([0-9a-f]{16}n(\d{1,4})(?:v([0-9a-f]{8}))?)(-\d+)?", re.ASCII)
_MOST_REGIONS = 20_000
_OUTLINES = frozenset({"rle", "points", "radiusX", "imageDataURL"})
"""What the values of brush masks, polygons, ellipses and bitmasks have; those of rectangles and key points do not."""


@dataclass(frozen=True)
class Region:
    """A mask of ours that an annotator kept.

    Attributes:
        id: As it was answered.
        clicks: Clicks and boxes that it took.
        edited: Whether it was changed by hand afterwards.
        version: The tag of the model that made it (`version_tag`); None in ids of servers that did not write it yet.
    """

    id: str
    clicks: int
    edited: bool
    version: str | None = None


@dataclass(frozen=True)
class Save:
    """An annotation that was saved.

    Attributes:
        annotation: Its number.
        first: Whether it was saved for the first time, which Label Studio tells once; later saves repeat what it holds.
        regions: The masks in it that are ours.
    """

    annotation: int
    first: bool
    regions: tuple[Region, ...]


def parse(body: Any) -> Save | None:
    """Reads a webhook's body; None where no annotation was saved, or it is not sent along.

    Raises:
        RequestError: A body that is not what Label Studio sends.
    """
    if not isinstance(body, Mapping):
        raise RequestError("the body must be a JSON object")
    if body.get("action") not in (_CREATED, _UPDATED):
        return None
    annotation = body.get("annotation")
    if annotation is None:  # a webhook that is set to send no payload
        return None
    if not isinstance(annotation, Mapping) or type(annotation.get("id")) is not int:
        raise RequestError("annotation must be an object with a number as its id")
    result = annotation.get("result")
    if not isinstance(result, list) or len(result) > _MOST_REGIONS:
        raise RequestError(f"annotation.result must be a list of at most {_MOST_REGIONS} regions")
    regions: dict[str, Region] = {}  # one id may come several times: labels, polygons of one mask
    for item in result:
        found = _OURS.fullmatch(str(item.get("id", ""))[:64]) if isinstance(item, Mapping) else None
        origin = str(item.get("origin", "")) if found else ""
        if found and origin.startswith("prediction"):
            edited = origin != "prediction" or (found[1] in regions and regions[found[1]].edited)
            regions[found[1]] = Region(found[1], int(found[2]), edited, found[3])
    return Save(annotation["id"], body["action"] == _CREATED, tuple(regions.values()))


def has_mask(result: Any) -> bool:
    """Whether an annotation outlines anything, whoever drew it: else there is nothing in it to train on."""
    values = (item.get("value") for item in result if isinstance(item, Mapping)) if isinstance(result, list) else ()
    return any(isinstance(value, Mapping) and not _OUTLINES.isdisjoint(value) for value in values)
