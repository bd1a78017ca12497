"""Reads the logs of several runs as one, for `training.learning_curve`, which says how they add up."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from icmformer.errors import ConfigError

from ..evaluation.object_results import read_lines

_PAUSE = 10
"""Median steps without a step from which on a run was not running."""
_MEANS = ("loss", "iou", "lr")
_FIGURES = ("noc80", "noc85", "noc90", "never90", "miou1", "miou5")
_COLUMNS = ("run", "samples", "hours", *_MEANS, *_FIGURES)


@dataclass(frozen=True)
class Point:
    """A stretch of steps, or a validation.

    Attributes:
        run: Number of the run, from 1.
        samples: Samples seen by its end, of all runs.
        hours: Spent by its end, of all runs.
        figures: Means over the steps (loss, iou, lr), or what a validation found (noc80, ..., miou5).
    """

    run: int
    samples: int
    hours: float
    figures: Mapping[str, float]

    @property
    def row(self) -> dict[str, str]:
        """For a table."""
        told = {"run": str(self.run), "samples": str(self.samples), "hours": f"{self.hours:.3f}"}
        return {**told, **{name: f"{value:.4g}" for name, value in self.figures.items()}}


def read(runs: Sequence[Path], every: int) -> Iterator[Point]:
    """Points of several runs, in order.

    Args:
        runs: Run folders.
        every: Samples of a stretch.

    Raises:
        ConfigError: A folder without a log, or a log that cannot be read.
    """
    before, seconds = 0, 0.0
    for number, run in enumerate(runs, 1):
        rows = _rows(run)
        gaps = [b["time"] - a["time"] for a, b in pairwise(rows) if "validation" not in b]
        longest = _PAUSE * float(np.median(gaps)) if gaps else 0.0
        last, end, stretch = rows[0]["time"], 0, list[Mapping[str, Any]]()
        for row in rows:
            gap, last = row["time"] - last, row["time"]
            if "validation" in row:
                yield Point(number, before + row["seen"], seconds / 3600, row["validation"])
                continue
            seconds += gap if 0 < gap < longest else 0
            stretch.append(row)
            if row["seen"] // every > end // every:
                end = row["seen"]
                yield Point(number, before + end, seconds / 3600, _means(stretch))
                stretch = []
        if stretch:
            yield Point(number, before + stretch[-1]["seen"], seconds / 3600, _means(stretch))
        before += row["seen"]


def _rows(run: Path) -> list[dict[str, Any]]:
    log = run / "log.jsonl"
    if not log.is_file():
        raise ConfigError(f"there is no {log}; give folders of training runs")
    try:
        rows = [_checked(row) for row in read_lines(log)]
        if not rows:
            raise ValueError("it is empty")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{log} is not a log of a training run ({type(error).__name__}: {error})") from error
    return rows


def _checked(row: Any) -> dict[str, Any]:
    """What is used of a line: its figures, all of them numbers."""
    kept: dict[str, Any] = {"seen": int(row["seen"]), "time": float(row["time"])}
    if "validation" in row:
        return kept | {"validation": {name: float(row["validation"][name]) for name in _FIGURES}}
    return kept | {name: float(row[name]) for name in _MEANS}


def _means(stretch: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in stretch])) for name in _MEANS}


def save_table(points: Sequence[Point], path: Path) -> None:
    """Writes a line a point."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(point.row for point in points)


def save_picture(points: Sequence[Point], path: Path) -> None:
    """Draws the mean IoU of the training samples, the clicks needed on the validation images, and where runs begin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [p for p in points if "loss" in p.figures]
    found = [p for p in points if "noc90" in p.figures]
    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(7, 6), layout="constrained")
    top.plot([p.samples for p in steps], [p.figures["iou"] for p in steps], linewidth=1)
    top.set_ylabel("mean IoU, training samples")
    for target in ("90", "85", "80"):
        clicks = [p.figures[f"noc{target}"] for p in found]
        bottom.plot([p.samples for p in found], clicks, marker="o", markersize=4, label=f"{target}% IoU")
    bottom.set(xlabel="samples", ylabel="clicks, validation images")
    bottom.legend()
    starts = [a.samples for a, b in pairwise(points) if b.run != a.run]
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        for start in starts:
            axes.axvline(start, color="grey", linestyle=":")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def as_markdown(points: Sequence[Point]) -> str:
    """The validations as a table."""
    lines = ["| run | samples | hours | " + " | ".join(_FIGURES) + " |", "|---" * (3 + len(_FIGURES)) + "|"]
    for point in points:
        if "noc90" in point.figures:
            figures = " | ".join(f"{point.figures[name]:.3g}" for name in _FIGURES)
            lines.append(f"| {point.run} | {point.samples:,} | {point.hours:.2f} | {figures} |")
    return "\n".join(lines)
