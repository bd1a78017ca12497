"""How well scores tell masks apart, and how sharp a network's probabilities should be read for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from icmformer import Engine
from icmformer.errors import ConfigError
from icmformer.inference.engine import expected_iou
from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask
from icmformer.weights import ServingDefaults

from .benchmarks import EvalObject
from .protocol import Stepwise, simulate

_SHARPNESSES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
_BAD = 0.8
_BINS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)

HalfMap = NDArray[np.float16]


def calibrate(engine: Engine, objects: Sequence[EvalObject], clicks: int = 4) -> str:
    """Makes some clicks on each object and sets the scores beside the IoUs that the masks really have.

    Returns:
        Two tables: by sharpness (see `icmformer.inference.engine.expected_iou`), and by score.

    Raises:
        ConfigError: No click.
    """
    if clicks < 1:
        raise ConfigError("--clicks starts at 1")
    serving = engine.weights.serving
    patches: list[HalfMap] = []
    ious: list[float] = []
    for item in tqdm(objects, unit="object"):
        image, truth = item.load()
        steps = Stepwise(engine.predictor, image)

        def keep(clicks: Sequence[PixelClick], mask: BoolMask, iou: float, steps: Stepwise = steps) -> None:
            assert steps.prediction is not None
            patches.append(steps.prediction.patch.astype(np.float16))

        ious += simulate(steps, truth, serving.threshold, None, clicks, observe=keep).ious
    return tables(patches, np.array(ious), serving)


def lower_chance(scores: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    """How often a bad mask's score is lower than a good one's, ties by half: the area under the ROC curve.

    Not a number where all masks are good, or all bad.
    """
    pairs = scores[bad][:, None] - scores[~bad][None]
    return float(((pairs < 0) + (pairs == 0) / 2).mean()) if pairs.size else float("nan")


def tables(patches: list[HalfMap], ious: NDArray[np.float64], serving: ServingDefaults) -> str:
    """The two tables as text; the weights' own sharpness is marked."""
    lines = [
        f"{len(ious)} masks, mean IoU {ious.mean():.3f}",
        f"{'sharpness':>10} {'mean score':>11} {'error':>7} {'correlation':>12}",
    ]
    for sharpness in _SHARPNESSES:
        scores = np.array(
            [expected_iou(p.astype(np.float32), replace(serving, score_sharpness=sharpness)) for p in patches]
        )
        mark = " *" if sharpness == serving.score_sharpness else ""
        told = f"{sharpness:>10} {scores.mean():>11.3f} {abs(scores - ious).mean():>7.3f}"
        lines.append(f"{told} {np.corrcoef(scores, ious)[0, 1]:>12.3f}{mark}")
    scores = np.array([expected_iou(p.astype(np.float32), serving) for p in patches])
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
