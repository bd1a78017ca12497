"""Segmenters without a network, same protocol: `python -m training.baselines --dataset NAME --root DIR --out DIR`.

`grabcut` is OpenCV's GrabCut with the clicks as seeds (Rother, Kolmogorov, Blake, 2004), `random-walker` scikit-image's
random walker (Grady, 2006). What they are told is what a network is told: the photo and the clicks so far.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import random_walker
from tqdm import tqdm

from icmformer.errors import ConfigError
from icmformer.inference.roi import ROI, PixelClick, whole
from icmformer.types import FloatMap, RGBImage
from training.command import exit_status
from training.evaluation.benchmarks import BENCHMARKS, load_benchmark
from training.evaluation.object_results import resume
from training.evaluation.protocol import Answerer, play
from training.evaluation.report import print_table, save_curve, summarise

MAX_CLICKS = 20
_SEED_RADIUS = 5  # pixels around a click that are certain, as the networks' disks
_FIRST_GUESS = 0.25  # of the photo's shorter side: where the object is guessed to be, around its clicks
_WALKER_SIDE = 128  # pixels of the photo's longer side that the random walker works at
_WALKER_BETA = 300.0


def _disks(shape: tuple[int, int], clicks: Sequence[PixelClick], positive: bool, radius: float) -> NDArray[np.bool_]:
    drawn = np.zeros(shape, np.uint8)
    for click in clicks:
        if click.positive == positive:
            cv2.circle(drawn, (click.column, click.row), round(radius), 1, -1)
    return drawn.astype(bool)


def grabcut(photo: RGBImage) -> Answerer:
    """GrabCut, started anew at each click: near positive clicks is probably the object, the rest probably not."""
    shape = photo.shape[:2]
    bgr = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)

    def answer(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        near = _disks(shape, clicks, True, _FIRST_GUESS * min(shape))
        labels = np.where(near, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[_disks(shape, clicks, True, _SEED_RADIUS)] = cv2.GC_FGD
        labels[_disks(shape, clicks, False, _SEED_RADIUS)] = cv2.GC_BGD
        if not near.any() or near.all():
            return near.astype(np.float32), whole(*shape)
        cv2.setRNGSeed(0)  # its colour models start from random clusters
        cv2.grabCut(bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
        return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32), whole(*shape)

    return answer


def walker(photo: RGBImage) -> Answerer:
    """The random walker on the photo made smaller; the photo's edge is background where no click says otherwise."""
    shape = photo.shape[:2]
    scale = min(1.0, _WALKER_SIDE / max(shape))
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    def answer(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        seeds = np.zeros(small.shape[:2], np.int32)
        seeds[[0, -1]] = 2
        seeds[:, [0, -1]] = 2
        scaled = [
            PixelClick(
                min(int(c.row * scale), seeds.shape[0] - 1), min(int(c.column * scale), seeds.shape[1] - 1), c.positive
            )
            for c in clicks
        ]
        radius = _SEED_RADIUS * scale
        seeds[_disks(seeds.shape, scaled, False, radius)] = 2
        seeds[_disks(seeds.shape, scaled, True, radius)] = 1
        if not (seeds == 1).any():
            return np.zeros(shape, np.float32), whole(*shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that probabilities overshoot by the solver's tolerance
            odds = random_walker(
                small, seeds, _WALKER_BETA, mode="cg_j", tol=1e-3, channel_axis=2, return_full_prob=True
            )
        inside = np.asarray(odds[0], np.float32)
        return cv2.resize(inside, shape[::-1], interpolation=cv2.INTER_LINEAR), whole(*shape)

    return answer


METHODS: Mapping[str, Callable[[RGBImage], Answerer]] = {"grabcut": grabcut, "random-walker": walker}


def measure(method: str, dataset: str, root: Path, limit: int | None, all_clicks: bool, out: Path) -> dict[str, Any]:
    """Plays the protocol with a method on a data set, going on where `out` says it stopped.

    Raises:
        ConfigError: `out` holds another run.
    """
    folder = out / method
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "objects.jsonl"
    target = None if all_clicks else 0.9
    about = {"method": method, "dataset": dataset, "root": str(root.resolve()), "limit": limit, "target_iou": target}
    rows = resume(log, about)
    objects = load_benchmark(dataset, root, limit)
    with log.open("a") as file:
        for item in tqdm(objects, unit="object", desc=f"{method}, {dataset}"):
            if item.name in rows:
                continue
            image, truth = item.load()
            played = play(METHODS[method](image.pixels), truth, 0.5, target, MAX_CLICKS)
            rows[item.name] = {"name": item.name, "ious": played.ious, "seconds": played.seconds}
            file.write(json.dumps(rows[item.name]) + "\n")
            file.flush()
    ordered = [rows[item.name] for item in objects]
    facts = {"dataset": dataset, "weights": {"name": method}, "profile": "no network", "target_iou": target}
    results = {**summarise(ordered, target, MAX_CLICKS), **facts}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    save_curve(ordered, results, MAX_CLICKS, folder / "curve.png")
    return results


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.baselines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset",
        required=True,
        choices=list(BENCHMARKS),
        help="benchmark; folder, label-maps; shard, mosaic, never-trained",
    )
    parser.add_argument("--root", type=Path, required=True, help="the data set's own folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, a folder a method below it")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="all by default")
    parser.add_argument("--limit", type=int, metavar="N", help="only N objects, spread over the set")
    parser.add_argument("--all-clicks", action="store_true", help="play all 20 clicks, for mIoU and AuC")
    args = parser.parse_args(argv)
    return exit_status(lambda: _measure_all(args), f"stopped; run the same command to go on: {args.out}")


def _measure_all(args: argparse.Namespace) -> int:
    if args.limit is not None and args.limit < 1:
        raise ConfigError("--limit starts at 1")
    for method in args.methods:
        print_table(measure(method, args.dataset, args.root, args.limit, args.all_clicks, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
