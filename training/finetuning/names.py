"""What the names of photos tell: frames of one video, tiles and variants of one image."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Sequence, Set
from pathlib import PurePosixPath
from typing import NamedTuple

from training.finetuning.photos import PreparedPhoto

FRAMES, TILES, VARIANTS = "frames of one video", "tiles of one image", "variants of one photo"

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""Label Studio puts it before the name of an uploaded file."""
_GAP = r"(?:^|(?<=[^a-z]))"  # a word begins here
_FRAME = re.compile(rf"^(.*?){_GAP}(?:frame|frm)s?[-_. ]*\d+$", re.IGNORECASE)
_OF_VIDEO = re.compile(r"^(.+[-_.](?:mp4|avi|mov|mkv|webm|m4v))[-_.]+\d+", re.IGNORECASE)
_VARIANT = re.compile(r"^(.+)\.rf\.[0-9a-z]{8,}$", re.IGNORECASE)
_PLACES = [
    re.compile(rf"^(.*?){_GAP}{a}[-_=]?\d+[-_. ]*{b}[-_=]?\d+$", re.IGNORECASE)
    for a, b in (("x", "y"), ("y", "x"), ("r", "c"), ("c", "r"), ("rows?", "col(?:umn)?s?"), ("col(?:umn)?s?", "rows?"))
]
_TILE = re.compile(rf"^(.*?){_GAP}(?:tiles?|patch(?:es)?)[-_. ]*\d+(?:[-_, x]\d+)*$", re.IGNORECASE)
_TWO_NUMBERS = re.compile(r"^(.*?)[-_. ]?(?<!\d)(\d{1,9})[-_, x](\d{1,9})$")
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Folders of an earlier split, CVAT's subsets among them: they tell nothing of what a photo is of."""
_LEAST_STEP = 16
"""Pixels between tiles named by their corner; numbers without such a step count from 0 or 1, if they count tiles."""


def joined_by_name(photos: Sequence[PreparedPhoto]) -> Iterator[tuple[str, dict[Hashable, list[int]]]]:
    """Photos that belong together by their names: why, and places in `photos` by what they share.

    Only photos of one folder do, but for variants; folders of parts (`train`, `val`) count as none.
    """
    paths = [PurePosixPath(photo.identity.replace("\\", "/")) for photo in photos]
    stems = [_UPLOAD.sub("", path.stem) for path in paths]
    rules: dict[str, dict[Hashable, list[int]]] = {FRAMES: {}, TILES: {}, VARIANTS: {}}
    twos: dict[Hashable, list[_Numbered]] = {}
    for place, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        folder = tuple(name for name in path.parent.parts if name.casefold() not in _PARTS)
        if found := _VARIANT.match(stem):
            stem = found[1]
            rules[VARIANTS].setdefault(stem, []).append(place)
            stem = re.sub(r"_(?:jpe?g|png)$", "", stem, flags=re.IGNORECASE)
        if found := _FRAME.match(stem) or _OF_VIDEO.match(stem):
            rules[FRAMES].setdefault((folder, found[1]), []).append(place)
        elif found := next(filter(None, (rule.match(stem) for rule in (*_PLACES, _TILE))), None):
            rules[TILES].setdefault((folder, found[1]), []).append(place)
        elif found := _TWO_NUMBERS.match(stem):
            twos.setdefault((folder, found[1]), []).append(
                _Numbered(place, str(path.parent), int(found[2]), int(found[3]))
            )
    for key, members in twos.items():
        sizes = {(photos[member.place].height, photos[member.place].width) for member in members}
        twice = len({member[1:] for member in members}) < len(members)
        if len(sizes) == 1 and not twice and _is_grid({member[2:] for member in members}):
            rules[TILES].setdefault(key, []).extend(member.place for member in members)
    yield from rules.items()


class _Numbered(NamedTuple):
    """A photo whose name ends in two numbers."""

    place: int
    folder: str
    row: int
    column: int


def _is_grid(numbers: Set[tuple[int, ...]]) -> bool:
    """Whether pairs of numbers are rows and columns: both vary, count from 0 or 1 or by steps, and fill half a grid."""
    rows, columns = ({pair[axis] for pair in numbers} for axis in (0, 1))
    for values in (rows, columns):
        if len(values) < 2 or (min(values) > 1 and math.gcd(*values) < _LEAST_STEP):
            return False
    return 2 * len(numbers) >= len(rows) * len(columns)


def common_name(photos: Sequence[PreparedPhoto], members: Sequence[int]) -> str:
    """What people call some photos: the first one, and how many more."""
    first = min(photos[place].identity for place in members)
    return f"{first} and {len(members) - 1} more" if len(members) > 1 else first


def folder_of(identity: str) -> str:
    """The folder of a path as an export has it, with slashes."""
    return str(PurePosixPath(identity.replace("\\", "/")).parent)
