"""What an evaluation leaves behind: figures, a table, a curve, and pictures of every click."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from icmformer.images.masks import overlay, write_image
from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask, RGBImage

from .benchmarks import Truth
from .noc import MAX_CLICKS, area_under_curve, click_count, mean_iou, mean_iou_at, reached
from .object_results import ObjectResult
from .protocol import pixel_middles

TARGETS = (80, 85, 90, 95)


def summarise(results: Sequence[Mapping[str, Any]], target_iou: float | None) -> dict[str, Any]:
    """The figures over objects; what sessions that stopped at `target_iou` cannot tell is None.

    Args:
        results: Of each object `ious` and `seconds`, and `box_iou` where sessions began with a box; see `ObjectResult`.
        target_iou: Where sessions stopped; None where they made all clicks.
    """
    ious = [result["ious"] for result in results]
    known = {t: target_iou is None or t / 100 <= target_iou + 1e-9 for t in TARGETS}
    counts = {str(t): click_count(ious, t / 100) if known[t] else None for t in TARGETS}
    curve = mean_iou(ious) if target_iou is None else None
    return {
        "objects": len(results),
        "noc": {t: c.noc if c else None for t, c in counts.items()},
        "noc_std": {t: c.std if c else None for t, c in counts.items()},
        "nof": {t: c.failures if c else None for t, c in counts.items()},
        "never": {t: c.never if c else None for t, c in counts.items()},
        "reached": {str(t): reached(ious, t / 100) if known[t] else None for t in TARGETS},
        "miou_at_box": float(np.mean([r["box_iou"] for r in results])) if "box_iou" in results[0] else None,
        "miou_at_1": mean_iou_at(ious, 1),
        "miou": curve,
        "auc": area_under_curve(curve) if curve else None,
        "seconds_per_click": float(np.mean([s for result in results for s in result["seconds"]])),
    }


def write_results(object_results: Sequence[ObjectResult], facts: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Writes results.json and curve.png.

    Args:
        object_results: In the order of the data set.
        facts: What was evaluated, among others `dataset` and `target_iou`.
        out: The folder.

    Returns:
        The figures and the facts.
    """
    results = {**summarise(object_results, facts["target_iou"]), **facts}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    _save_curve(object_results, results, out / "curve.png")
    return results


def print_table(results: Mapping[str, Any], out: Path | None = None) -> None:
    """Prints the figures for people, and where an evaluation wrote them."""
    print(f"\n{results['dataset']}: {results['objects']} objects, {_subject(results)}")
    print(f"{'IoU':>8} {'NoC':>7} {'std':>6} {'NoF':>5} {'never':>6}")
    for target in map(str, TARGETS):
        if results["noc"][target] is not None:
            print(
                f"{target + '%':>8} {results['noc'][target]:7.2f} {results['noc_std'][target]:6.2f} "
                f"{results['nof'][target]:5d} {results['never'][target]:6d}"
            )
    if results["miou_at_box"] is not None:
        print(f"mIoU after a box {results['miou_at_box']:.4f}, and ", end="")
    print(f"mIoU after one click {results['miou_at_1']:.4f}", end="")
    if results["miou"]:
        print(f", five {results['miou'][4]:.4f}, twenty {results['miou'][19]:.4f}; AuC {results['auc']:.4f}", end="")
    print(f"; {results['seconds_per_click']:.3f} s a click")
    if out:
        print(f"\nwritten to {out}: results.json, curve.png, objects.jsonl")


def _subject(results: Mapping[str, Any]) -> str:
    """What was evaluated."""
    server: str | None = results.get("server")
    return f"{server} ({results['model']})" if server else f"{results['weights']['name']}, {results['profile']}"


def _save_curve(object_results: Sequence[ObjectResult], results: Mapping[str, Any], path: Path) -> None:
    """Draws mean IoU against clicks; the share of objects that reached the target where sessions stopped there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    clicks = range(1, MAX_CLICKS + 1)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    if results["miou"]:
        axes.plot(clicks, results["miou"], marker="o", markersize=3)
        axes.set_ylabel("mean IoU")
    else:
        target = results["target_iou"]
        shares = reached([result["ious"] for result in object_results], target)
        axes.plot(clicks, shares, marker="o", markersize=3)
        axes.set_ylabel(f"share of objects at IoU {target:g} or better")
    axes.set(xlabel="clicks", xticks=clicks, ylim=(0, 1), title=f"{results['dataset']}: {_subject(results)}")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


class OverlayStrip:
    """Collects a picture of each click of one object: mask and clicks so far, and the truth's outline in yellow."""

    def __init__(self, image: RGBImage, truth: Truth, height: int = 240, columns: int = 5) -> None:
        self._image, self._truth = image, truth
        self._height, self._columns = height, columns
        self._pictures: list[RGBImage] = []

    def add(self, clicks: Sequence[PixelClick], mask: BoolMask, iou: float) -> None:
        """Adds the state after a click."""
        picture = overlay(self._image, mask, pixel_middles(clicks))
        outline, _ = cv2.findContours((self._truth == 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, (255, 220, 0), 1)
        width = max(1, round(picture.shape[1] * self._height / picture.shape[0]))
        small = cv2.resize(picture, (width, self._height), interpolation=cv2.INTER_AREA)
        cv2.putText(small, f"{len(clicks)}: {iou:.3f}", (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 3)
        cv2.putText(small, f"{len(clicks)}: {iou:.3f}", (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
        self._pictures.append(np.asarray(small, np.uint8))

    def save(self, path: Path) -> None:
        """Writes the pictures side by side."""
        blank = np.full_like(self._pictures[0], 255)
        count = -(-len(self._pictures) // self._columns) * self._columns
        pictures = [*self._pictures, *[blank] * (count - len(self._pictures))]
        lines = [np.hstack(pictures[i : i + self._columns]) for i in range(0, count, self._columns)]
        write_image(path, np.vstack(lines))
