"""Where weights are good and where they are not: `python -m training.breakdown OUT`.

Reads what `training.evaluate` left in OUT and prints its figures by data set, by the object's share of its photo, by
whether it is thin and by whether it is in several pieces, as Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from icmformer.errors import ConfigError
from training.command import exit_status
from training.data.held_out import HELD_OUT_SETS
from training.evaluation.benchmarks import EvalObject, ShardObject, Truth, load_benchmark
from training.evaluation.noc import click_count
from training.evaluation.object_results import read_rows

MAX_CLICKS = 20
TARGET = 0.9
"""The highest IoU that clicks are counted to."""
THIN = 0.4
"""An object is thin if the widest disc inside its largest piece is narrower than so much of the square root of that
piece's area: longer than six times its width, for a bar."""
_SHARES = {"under 1%": 0.01, "1% to 5%": 0.05, "5% to 20%": 0.2, "over 20%": 1.0}
"""Name -> the share of the photo that it ends at."""
_LEAST_PIECE = 0.01

_EVALUATIONS = {"identity", "dataset", "root", "limit", "profile", "size", "served", "box", "target_iou"}
"""What an evaluation says of itself, among other things."""

Groups = Mapping[str, str]
"""Kind of group -> the group of that kind which an object is in."""


def groups_of(item: EvalObject, truth: Truth) -> Groups:
    """The groups of one object.

    Args:
        item: The object.
        truth: (H, W): 1 object, 0 background, -1 ignored; at least a pixel of the object.
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
        kind = "never trained on by a recipe here" if item.set in HELD_OUT_SETS else "trained on, but for these photos"
        return {"kind of set": kind, "set": item.set, **found}
    return found


def tables(rows: Sequence[tuple[Groups, Sequence[float]]]) -> str:
    """Markdown tables, one for each kind of group.

    Args:
        rows: Of each object its groups and its IoU after each click.
    """
    lines = [*_head("which"), _line("all objects", [ious for _, ious in rows])]
    for kind in rows[0][0]:
        sizes = list(_SHARES)
        there = {groups[kind] for groups, _ in rows}
        names = [name for name in sizes if name in there] or sorted(there)
        lines += ["", *_head(kind)]
        lines += [_line(name, [ious for groups, ious in rows if groups[kind] == name]) for name in names]
    return "\n".join(lines)


def _head(kind: str) -> list[str]:
    columns = [kind, "objects", "NoC@80", "NoC@85", "NoC@90", "never at 90%", "mIoU after 1 click"]
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _line(name: str, ious: list[Sequence[float]]) -> str:
    counts = [click_count(ious, target, MAX_CLICKS) for target in (0.8, 0.85, TARGET)]
    first = float(np.mean([row[0] for row in ious]))
    nocs = " | ".join(f"{count.noc:.2f}" for count in counts)
    return f"| {name} | {len(ious)} | {nocs} | {counts[-1].never} | {first:.3f} |"


def played_objects(out: Path) -> tuple[Mapping[str, Any], list[tuple[EvalObject, Mapping[str, Any]]]]:
    """What an evaluation was of, and its objects with what was played on them.

    Args:
        out: The evaluation's folder.

    Raises:
        ConfigError: Not the folder of an evaluation, or one that was not finished, or that stopped short of 90% IoU.
    """
    log = out / "objects.jsonl"
    run, rows = read_rows(log)
    if not run.keys() >= _EVALUATIONS:
        raise ConfigError(f"{log} is not of training.evaluate; this command needs what that played")
    if run["target_iou"] is not None and run["target_iou"] < TARGET:
        raise ConfigError(f"{out} was played to {run['target_iou']:.0%} IoU only; clicks are counted to {TARGET:.0%}")
    objects = load_benchmark(run["dataset"], Path(run["root"]), run["limit"])
    left = [item.name for item in objects if item.name not in rows]
    if left:
        raise ConfigError(f"{out} lacks {len(left)} of {len(objects)} objects; run its evaluation to the end first")
    played = [(item, rows[item.name]) for item in objects if rows[item.name].get("ious")]
    if not played:
        raise ConfigError(f"nothing was played in {out}")
    return run, played


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.breakdown", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that training.evaluate wrote (its --out)")
    args = parser.parse_args(argv)
    return exit_status(lambda: _breakdown(args.out), "stopped")


def _breakdown(out: Path) -> int:
    _, played = played_objects(out)
    print(tables([(groups_of(item, item.load()[1]), row["ious"]) for item, row in tqdm(played, unit="object")]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
