"""The parts of a team's annotated photos: to train on, to choose the zoom on, and held out to tell the gain."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from icmformer.errors import ConfigError
from icmformer.weights.serving_defaults import MIN_CROP_SIZE

from .groups import find_groups
from .photos import PreparedPhoto
from .readers.reading_report import ReadingReport

Part = Literal["train", "choosing", "held_out"]
PARTS: tuple[Part, ...] = get_args(Part)
LEAST_FOR_CHOOSING = 5
"""Groups without which no photo is spared to choose the zoom on."""


@dataclass(frozen=True)
class PlacedPhoto:
    """A photo of a part.

    Attributes:
        number: Its files are called `NUMBER.png`, with six digits.
        identity: The export's path.
        group: Photos of one group are in one part.
        part: Where it is.
        pixels: Digest of the photo.
        digest: Of photo and label map.
        long_side: In pixels.
        objects: Of its label map.
    """

    number: int
    identity: str
    group: int
    part: Part
    pixels: str
    digest: str
    long_side: int
    objects: int


@dataclass(frozen=True)
class Split:
    """Which photo is where, in the export's order."""

    photos: tuple[PlacedPhoto, ...]

    def count(self, part: Part) -> int:
        """Photos of a part."""
        return sum(photo.part == part for photo in self.photos)

    def objects(self, part: Part) -> int:
        """Objects of a part."""
        return sum(photo.objects for photo in self.photos if photo.part == part)

    def groups(self, part: Part) -> int:
        """Groups of a part."""
        return len({photo.group for photo in self.photos if photo.part == part})

    @property
    def long_side(self) -> int:
        """Median long side of the photos, in pixels."""
        return int(np.median([photo.long_side for photo in self.photos]))

    @property
    def min_crop_size(self) -> int:
        """Least side of a crop: a fifth of the photos' side; the published 200 pixels suit photos of 1,000."""
        return min(max(self.long_side // 5, 48), MIN_CROP_SIZE)

    @property
    def content(self) -> str:
        """Digest of what the parts hold: two splits with the same one train and judge alike."""
        facts = sorted((photo.number, photo.digest, photo.part) for photo in self.photos)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def of_object(self, name: str) -> PlacedPhoto:
        """The photo of an evaluated object, `NUMBER_VALUE`."""
        return self._by_number[int(name.split("_")[0])]

    @functools.cached_property
    def _by_number(self) -> Mapping[int, PlacedPhoto]:
        return {photo.number: photo for photo in self.photos}

    def as_mapping(self) -> list[dict[str, object]]:
        """For JSON."""
        return [dataclasses.asdict(photo) for photo in self.photos]

    @classmethod
    def from_mapping(cls, photos: Iterable[Mapping[str, object]]) -> Split:
        """Of what `as_mapping` gave."""
        return cls(tuple(PlacedPhoto(**photo) for photo in photos))  # type: ignore[arg-type]


def split(
    photos: Sequence[PreparedPhoto],
    source: Path,
    out: Path,
    report: ReadingReport,
    held_out: float = 0.2,
    choosing: float = 0.1,
    group_by: str = "auto",
) -> Split:
    """Moves photos and label maps into the folders of their parts.

    Whole groups go into a part. Which do, depends on the content of all photos alone: not on their order or names.

    Args:
        photos: Of the export, all with objects.
        source: Where their `images/NUMBER.png` and `masks/NUMBER.png` are; it is gone afterwards.
        out: Gets `train`, `choosing` (if any photo is spared for it) and `held_out`, each with `images/` and `masks/`.
        report: Is told what was joined, and whether there is nothing to choose the zoom on.
        held_out: Share of the photos.
        choosing: Share of the photos; 0 for none.
        group_by: See `find_groups`.

    Raises:
        ConfigError: Fewer than two photos or groups, or a rule that cannot be used.
    """
    if len(photos) < 2:
        raise ConfigError(
            f"{len(photos)} annotated photos are too few: one part is for training, one for measuring the gain"
        )
    groups = find_groups(photos, source, group_by, report)
    members: dict[int, list[PreparedPhoto]] = {}
    for photo, group in zip(photos, groups, strict=True):
        members.setdefault(group, []).append(photo)
    if len(members) < 2:
        kinds = [kind.removeprefix("kept together: ") for kind in report.counts("decided") if "kept together" in kind]
        raise ConfigError(
            f"all {len(photos)} photos belong together ({', '.join(kinds)}), so none can be held out to measure the "
            "gain; annotate others too, or say with --group-by what belongs together (none: each photo for itself)"
        )
    parts = assign({group: _key(items) for group, items in members.items()}, members, held_out, choosing)
    if choosing and "choosing" not in parts.values():
        report.decide(
            "too few groups of photos to choose the zoom on some: it stays as it is", f"{len(members)} groups"
        )
    placed = []
    for photo, group in zip(photos, groups, strict=True):
        part = parts[group]
        mask = hashlib.sha256((source / "masks" / f"{photo.stem}.png").read_bytes()).hexdigest()
        for kind in ("images", "masks"):
            (out / part / kind).mkdir(parents=True, exist_ok=True)
            (source / kind / f"{photo.stem}.png").rename(out / part / kind / f"{photo.stem}.png")
        digest = hashlib.sha256(f"{photo.digest} {mask}".encode()).hexdigest()
        side = max(photo.height, photo.width)
        placed.append(
            PlacedPhoto(photo.number, photo.identity, group, part, photo.digest, digest, side, len(photo.objects))
        )
    shutil.rmtree(source)
    return Split(tuple(placed))


def _key(photos: Sequence[PreparedPhoto]) -> tuple[str, list[str]]:
    """What decides where a group goes: its photos' content, and their names only where others have the same content."""
    digest = hashlib.sha256(" ".join(sorted(photo.digest for photo in photos)).encode()).hexdigest()
    return digest, sorted(photo.identity for photo in photos)


def assign(
    keys: Mapping[int, tuple[str, list[str]]],
    members: Mapping[int, Sequence[PreparedPhoto]],
    held_out: float,
    choosing: float,
) -> dict[int, Part]:
    """The part of each group.

    In the order of their keys, groups that still fit into a part's share are taken, for `held_out` first. Where not one
    fits, the smallest is: a video of most photos is trained on, whatever it takes the other parts. At least one group
    stays for each other part.

    Args:
        keys: By group; their order is as good as random.
        members: Photos by group, two groups at least.
        held_out: Share of the photos.
        choosing: Share of the photos; no group goes there of fewer than `LEAST_FOR_CHOOSING`.
    """
    order = sorted(keys, key=lambda group: keys[group])
    parts: dict[int, Part] = dict.fromkeys(order, "train")
    total = sum(len(items) for items in members.values())
    spared = choosing > 0 and len(order) >= LEAST_FOR_CHOOSING
    shares: list[tuple[Part, float, int]] = [("held_out", held_out, 2 if spared else 1)]
    if spared:
        shares.append(("choosing", choosing, 1))
    for part, share, stay in shares:
        free = [group for group in order if parts[group] == "train"]
        room = max(1, round(share * total))
        taken: list[int] = []
        for group in free:
            if len(members[group]) <= room and len(free) - len(taken) > stay:
                taken.append(group)
                room -= len(members[group])
        for group in taken or [min(free, key=lambda g: len(members[g]))]:
            parts[group] = part
    return parts
