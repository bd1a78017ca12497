"""What the names of photos tell: frames of one video, tiles and variants of one image."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from .photos import PreparedPhoto

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
_PATCH = re.compile(r"^(.+)__\d+(?:\.\d+)?__\d+___\d+$")  # of DOTA's tools: name, scale, x, y
_BOX = re.compile(r"^(.*?)[-_. ]?(?<!\d)" + r"[-_, x]".join([r"(\d{1,9})"] * 4) + "$")  # of SAHI: the corners
_TWO_DOUBLED = re.compile(r"^(.+?)__(\d{1,9})__(\d{1,9})$")
_TWO_NUMBERS = re.compile(r"^(.*?)[-_. ]?(?<!\d)(\d{1,9})[-_, x]_?(\d{1,9})$")
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
    numbered: list[_Named] = []
    for place, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        folder = tuple(name for name in path.parent.parts if name.casefold() not in _PARTS)
        if found := _VARIANT.match(stem):
            stem = found[1]
            rules[VARIANTS].setdefault(stem, []).append(place)
            stem = re.sub(r"_(?:jpe?g|png)$", "", stem, flags=re.IGNORECASE)
        if found := _FRAME.match(stem) or _OF_VIDEO.match(stem):
            rules[FRAMES].setdefault((folder, found[1]), []).append(place)
        elif found := next(filter(None, (rule.match(stem) for rule in (*_PLACES, _TILE, _PATCH))), None):
            rules[TILES].setdefault((folder, found[1]), []).append(place)
        else:
            numbered.append(_Named(photos[place], place, str(path.parent), folder, stem))
    for pattern, are_tiles in ((_BOX, _are_boxes), (_TWO_DOUBLED, _are_offsets), (_TWO_NUMBERS, _are_grid)):
        families: dict[Hashable, list[tuple[_Named, tuple[int, ...]]]] = {}
        for named in numbered:
            if found := pattern.match(named.stem):
                numbers = tuple(int(number) for number in found.groups()[1:])
                families.setdefault((named.folder, found[1]), []).append((named, numbers))
        for key, members in families.items():
            once = {(named.parent, numbers) for named, numbers in members}
            if len(once) == len(members) > 1 and are_tiles(members):
                rules[TILES].setdefault(key, []).extend(named.place for named, _ in members)
        joined = {place for members in rules[TILES].values() for place in members}
        numbered = [named for named in numbered if named.place not in joined]
    yield from rules.items()


class _Named(NamedTuple):
    """A photo and its name: the folder as it is, and that without those of parts."""

    photo: PreparedPhoto
    place: int
    parent: str
    folder: tuple[str, ...]
    stem: str


_Numbered = Sequence[tuple[_Named, tuple[int, ...]]]


def _are_boxes(members: _Numbered) -> bool:
    """Whether four numbers are a tile's corners (left, top, right, bottom): of one size, or each as large as it is."""
    sizes = [(bottom - top, right - left) for _, (left, top, right, bottom) in members]
    if min(min(size) for size in sizes) < _LEAST_STEP:
        return False
    own = [(named.photo.height, named.photo.width) for named, _ in members]
    return len(set(sizes)) == 1 or sizes == own


def _are_offsets(members: _Numbered) -> bool:
    """Whether pairs of numbers are corners of tiles, however few of the image's: both are 0 or go by steps."""
    return all(math.gcd(*(numbers[axis] for _, numbers in members)) not in range(1, _LEAST_STEP) for axis in (0, 1))


def _are_grid(members: _Numbered) -> bool:
    """Whether pairs of numbers of photos of one size are rows and columns.

    Both vary, count from 0 or 1 or by steps, and fill half a grid.
    """
    pairs = {numbers for _, numbers in members}
    rows, columns = ({pair[axis] for pair in pairs} for axis in (0, 1))
    for values in (rows, columns):
        if len(values) < 2 or (min(values) > 1 and math.gcd(*values) < _LEAST_STEP):
            return False
    one_size = len({(named.photo.height, named.photo.width) for named, _ in members}) == 1
    return one_size and 2 * len(pairs) >= len(rows) * len(columns)


def common_name(photos: Sequence[PreparedPhoto], members: Sequence[int]) -> str:
    """What people call some photos: the first one, and how many more."""
    first = min(photos[place].identity for place in members)
    return f"{first} and {len(members) - 1} more" if len(members) > 1 else first


def folder_of(identity: str) -> str:
    """The folder of a path as an export has it, with slashes."""
    return str(PurePosixPath(identity.replace("\\", "/")).parent)
