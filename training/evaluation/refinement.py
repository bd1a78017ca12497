"""What the refinement pass of a first click is worth, were it made only where the first answer is unsure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from icmformer import Engine
from icmformer.inference.engine import expected_iou

from .benchmarks import EvalObject
from .protocol import Stepwise, simulate

_SCORES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)


def refinement_by_score(engine: Engine, objects: Sequence[EvalObject]) -> str:
    """Clicks once on each object, without the refinement pass and with it.

    Returns:
        A table: score below which the pass would be made, mIoU of the first masks then, runs of the network for each.
    """
    serving = engine.weights.serving
    once, twice = (replace(engine.predictor, serving=replace(serving, refinement_pass=made)) for made in (False, True))
    rows = []
    for item in tqdm(objects, unit="object"):
        image, truth = item.load()
        plain, refined = Stepwise(once, image), Stepwise(twice, image)
        ious = [simulate(steps, truth, serving.threshold, None, 1).ious[0] for steps in (plain, refined)]
        assert plain.prediction is not None
        assert refined.prediction is not None
        differs = plain.prediction.roi != refined.prediction.roi
        rows.append((*ious, expected_iou(plain.prediction.patch, serving), differs))
    plain_ious, refined_ious, scores, differs = np.array(rows).T
    lines = [f"{len(rows)} objects", f"{'score under':>12} {'mIoU':>7} {'runs':>6}"]
    for score in _SCORES:
        made = (differs == 1) & (scores < score)
        told = "never" if score == 0 else "always" if score > 1 else f"{score:.1f}"
        lines.append(f"{told:>12} {np.where(made, refined_ious, plain_ious).mean():>7.3f} {1 + made.mean():>6.2f}")
    return "\n".join(lines)
