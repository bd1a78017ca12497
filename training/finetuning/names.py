"""What the names of photos tell: frames of one video, tiles and variants of one image."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import PurePosixPath

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
_LEAST_STEP = 16
"""Pixels between tiles named by their corner; numbers without such a step count from 0 or 1, if they count tiles."""


def joined_by_name(photos: Sequence[PreparedPhoto]) -> Iterator[tuple[str, dict[Hashable, list[int]]]]:
    """Photos that belong together by their names: why, and places in `photos` by what they share.

    Only photos of one folder do, but for variants, which exports spread over the folders of their parts.
    """
    paths = [PurePosixPath(photo.identity.replace("\\", "/")) for photo in photos]
    stems = [_UPLOAD.sub("", path.stem) for path in paths]
    rules: dict[str, dict[Hashable, list[int]]] = {FRAMES: {}, TILES: {}, VARIANTS: {}}
    twos: dict[Hashable, list[tuple[int, int, int]]] = {}
    for place, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        folder = str(path.parent)
        if found := _VARIANT.match(stem):
            stem = found[1]
            rules[VARIANTS].setdefault(stem, []).append(place)
            stem = re.sub(r"_(?:jpe?g|png)$", "", stem, flags=re.IGNORECASE)
        if found := _FRAME.match(stem) or _OF_VIDEO.match(stem):
            rules[FRAMES].setdefault((folder, found[1]), []).append(place)
        elif found := next(filter(None, (rule.match(stem) for rule in (*_PLACES, _TILE))), None):
            rules[TILES].setdefault((folder, found[1]), []).append(place)
        elif found := _TWO_NUMBERS.match(stem):
            twos.setdefault((folder, found[1]), []).append((place, int(found[2]), int(found[3])))
    for key, members in twos.items():
        sizes = {(photos[place].height, photos[place].width) for place, _, _ in members}
        if len(sizes) == 1 and _is_grid([(row, column) for _, row, column in members]):
            rules[TILES].setdefault(key, []).extend(place for place, _, _ in members)
    yield from rules.items()


def _is_grid(numbers: Sequence[tuple[int, int]]) -> bool:
    """Whether pairs of numbers are rows and columns: both vary, count from 0 or 1 or by steps, and fill half a grid."""
    rows, columns = ({pair[axis] for pair in numbers} for axis in (0, 1))
    for values in (rows, columns):
        if len(values) < 2 or (min(values) > 1 and math.gcd(*values) < _LEAST_STEP):
            return False
    return len(set(numbers)) == len(numbers) and 2 * len(numbers) >= len(rows) * len(columns)


def common_name(photos: Sequence[PreparedPhoto], members: Sequence[int]) -> str:
    """What people call some photos: the first one, and how many more."""
    first = min(photos[place].identity for place in members)
    return f"{first} and {len(members) - 1} more" if len(members) > 1 else first


def folder_of(identity: str) -> str:
    """The folder of a path as an export has it, with slashes."""
    return str(PurePosixPath(identity.replace("\\", "/")).parent)
