"""Stratified metrics: where weights are good and where they are not, by kinds of objects."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..data.held_out import HELD_OUT_SETS
from .benchmarks import EvalObject, ShardObject, Truth
from .noc import click_count, mean_iou_at
from .object_results import evaluated_objects

_TARGETS = (0.8, 0.85, 0.9)
THIN = 0.4
"""An object is thin if the widest disc inside its largest piece is narrower than so much of the square root of that
piece's area: longer than six times its width, for a bar."""
_SHARES = {"under 1%": 0.01, "1% to 5%": 0.05, "5% to 20%": 0.2, "over 20%": 1.0}
"""Name -> the share of the image that it ends at."""
_LEAST_PIECE = 0.01

Groups = Mapping[str, str]
"""Kind of group -> the group of that kind which an object is in."""


def groups_of(item: EvalObject, truth: Truth, trained_on: Container[str] | None = None) -> Groups:
    """The groups of one object.

    Args:
        item: The object.
        truth: (H, W): 1 object, 0 background, -1 ignored; at least a pixel of the object.
        trained_on: Sets that the weights were trained on; all but `HELD_OUT_SETS` unless given.
    """
    inside = (truth == 1).astype(np.uint8)
    area = int(inside.sum())
    share = area / inside.size
    _, regions, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = (regions == 1 + int(areas.argmax())).astype(np.uint8)
    # pixels doubled, so that the distance to the nearest pixel outside is a width, even or odd
    doubled = np.pad(largest.repeat(2, axis=0).repeat(2, axis=1), 1)
    width = float(cv2.distanceTransform(doubled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
    found = {
        "share of the photo": next(name for name, end in _SHARES.items() if share < end or end == 1),
        "shape": "thin" if width < THIN * float(areas.max()) ** 0.5 else "not thin",
        "pieces": "one" if (areas >= _LEAST_PIECE * area).sum() == 1 else "several",
    }
    if isinstance(item, ShardObject):
        known = item.set not in HELD_OUT_SETS if trained_on is None else item.set in trained_on
        kind = "set trained on, except these photos" if known else "set never trained on"
        return {"kind of set": kind, "set": item.set, **found}
    return found


def stratified_metrics(folder: Path, trained_on: Container[str] | None = None) -> str:
    """The Markdown `tables` of the finished evaluation in a folder.

    Args:
        folder: The evaluation's.
        trained_on: See `groups_of`.

    Raises:
        ConfigError: See `evaluated_objects`.
    """
    _, evaluated = evaluated_objects(folder, _TARGETS[-1])
    bar = tqdm(evaluated, unit="object")
    return tables([(groups_of(item, item.load()[1], trained_on), result["ious"]) for item, result in bar])


def tables(objects: Sequence[tuple[Groups, Sequence[float]]]) -> str:
    """Markdown tables, one for each kind of group.

    Args:
        objects: Of each object its groups and its IoU after each click.
    """
    lines = [*_head("which"), _line("all objects", [ious for _, ious in objects])]
    for kind in objects[0][0]:
        sizes = list(_SHARES)
        there = {groups[kind] for groups, _ in objects}
        names = [name for name in sizes if name in there] or sorted(there)
        lines += ["", *_head(kind)]
        lines += [_line(name, [ious for groups, ious in objects if groups[kind] == name]) for name in names]
    return "\n".join(lines)


def _head(kind: str) -> list[str]:
    columns = [kind, "objects", "NoC@80", "NoC@85", "NoC@90", "never at 90%", "mIoU after 1 click"]
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _line(name: str, ious: list[Sequence[float]]) -> str:
    counts = [click_count(ious, target) for target in _TARGETS]
    nocs = " | ".join(f"{count.noc:.2f}" for count in counts)
    return f"| {name} | {len(ious)} | {nocs} | {counts[-1].never} | {mean_iou_at(ious, 1):.3f} |"
