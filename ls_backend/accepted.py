"""What annotators kept: Label Studio's webhook sends an annotation when it is saved, and our answers' ids are in it."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ls_backend.errors import RequestError

_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
_OURS = re.compile(r"([0-9a-f]{16}n(\d{1,4}))(-\d+)?", re.ASCII)
_MOST_REGIONS = 20_000
_REMEMBERED = 50_000


@dataclass(frozen=True)
class Region:
    """A mask of ours that an annotator kept.

    Attributes:
        id: As it was answered.
        clicks: Clicks and boxes that it took.
        edited: Whether it was changed by hand afterwards.
    """

    id: str
    clicks: int
    edited: bool


@dataclass(frozen=True)
class Save:
    """An annotation that was saved, with the masks in it that are ours."""

    annotation: int
    regions: tuple[Region, ...]


def parse(body: Any) -> Save | None:
    """Reads a webhook's body; None where no annotation was saved, or it is not sent along.

    Raises:
        RequestError: A body that is not what Label Studio sends.
    """
    if not isinstance(body, Mapping):
        raise RequestError("the body must be a JSON object")
    if body.get("action") not in _ACTIONS:
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
            regions[found[1]] = Region(found[1], int(found[2]), edited)
    return Save(annotation["id"], tuple(regions.values()))


class Saves:
    """Remembers what was in an annotation when it was saved last, as annotations are saved again and again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: OrderedDict[int, tuple[Region, ...]] = OrderedDict()

    def note(self, save: Save) -> tuple[list[Region], bool]:
        """The masks that are new in this annotation, and whether anything of ours in it changed.

        The oldest of some ten thousand annotations are forgotten.
        """
        with self._lock:
            before = self._last.pop(save.annotation, ())
            known = {region.id for region in before}
            self._last[save.annotation] = save.regions
            while len(self._last) > _REMEMBERED:
                self._last.popitem(last=False)
            return [region for region in save.regions if region.id not in known], before != save.regions
