"""How well scores tell masks apart: `python -m training.calibrate --weights W --root val-000.zip`.

Plays some clicks on each object and sets the scores beside the IoUs that the masks really have: mean absolute error
and correlation for several sharpnesses (see `icmformer.inference.engine.expected_iou`), how often a bad mask has the
lower score, and what a score is worth. `*` marks the weights' own sharpness, `score_sharpness` in their config.json.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from icmformer import Engine
from icmformer.errors import ConfigError
from icmformer.inference.engine import THRESHOLD, expected_iou
from icmformer.inference.predictor import Prediction
from icmformer.types import FloatMap
from training.command import add_played_objects, exit_status
from training.evaluation.benchmarks import load_benchmark
from training.simulated_annotator import SimulatedAnnotator

_SHARPNESSES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
_BAD = 0.8
_BINS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)


def masks_of(
    engine: Engine, dataset: str, root: Path, limit: int | None, clicks: int
) -> tuple[list[FloatMap], list[float]]:
    """The network's probabilities after each click on each object, and the IoU of each mask."""
    patches, ious = [], []
    for item in tqdm(load_benchmark(dataset, root, limit), unit="object"):
        image, truth = item.load()
        clicker, mask, made = SimulatedAnnotator(truth), np.zeros(truth.shape, bool), []
        prediction: Prediction | None = None
        while len(made) < clicks and (click := clicker.next_click(mask)) is not None:
            made.append(click)
            prediction = engine.predictor.step(image, prediction, made)
            mask = prediction.map.over(THRESHOLD)
            patches.append(prediction.patch.astype(np.float16))
            ious.append(clicker.iou(mask))
    return patches, ious


def lower_chance(scores: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    """How often a bad mask's score is lower than a good one's, ties by half: the area under the ROC curve.

    Not a number where all masks are good, or all bad.
    """
    pairs = scores[bad][:, None] - scores[~bad][None]
    return float(((pairs < 0) + (pairs == 0) / 2).mean()) if pairs.size else float("nan")


def table(patches: list[FloatMap], ious: NDArray[np.float64], chosen: float) -> str:
    """The two tables as text; `chosen` is the weights' own sharpness."""
    lines = [
        f"{len(ious)} masks, mean IoU {ious.mean():.3f}",
        f"{'sharpness':>10} {'mean score':>11} {'error':>7} {'correlation':>12}",
    ]
    for sharpness in _SHARPNESSES:
        scores = np.array([expected_iou(p.astype(np.float32), sharpness) for p in patches])
        mark = " *" if sharpness == chosen else ""
        told = f"{sharpness:>10} {scores.mean():>11.3f} {abs(scores - ious).mean():>7.3f}"
        lines.append(f"{told} {np.corrcoef(scores, ious)[0, 1]:>12.3f}{mark}")
    scores = np.array([expected_iou(p.astype(np.float32), chosen) for p in patches])
    bad = ious < _BAD
    if 0 < bad.sum() < len(bad):
        chance = lower_chance(scores, bad)
        lines += ["", f"a mask under {_BAD} has a lower score than one of {_BAD} or more in {chance:.1%} of pairs"]
    lines += ["", f"{'score':>10} {'masks':>6} {'mean IoU':>9} {f'under {_BAD}':>10}"]
    for low, high in pairwise(_BINS):
        inside = ious[(scores >= low) & ((scores < high) | (high == 1))]
        if len(inside):
            lines.append(
                f"{low:>4.1f} - {high:.1f} {len(inside):>6} {inside.mean():>9.3f} {(inside < _BAD).mean():>10.0%}"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_played_objects(parser, 120)
    parser.add_argument("--clicks", type=int, default=4, help="clicks on each (4)")
    args = parser.parse_args(argv)

    def work() -> int:
        if args.limit < 1 or args.clicks < 1:
            raise ConfigError("--limit and --clicks start at 1")
        engine = Engine.from_weights(args.weights, "cpu", args.profile)
        patches, ious = masks_of(engine, args.dataset, args.root, args.limit, args.clicks)
        print(table(patches, np.array(ious), engine.weights.serving.score_sharpness))
        return 0

    return exit_status(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
