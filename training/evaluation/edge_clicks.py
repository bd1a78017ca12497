"""What a click within a pixel of the image's edge finds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from icmformer import Engine
from icmformer.errors import ConfigError
from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask
from training.evaluation.annotators import ScriptedAnnotator
from training.evaluation.benchmarks import load_benchmark
from training.evaluation.protocol import Stepwise, simulate

_STRETCH = 6  # pixels of an edge


def places(truth: BoolMask) -> Iterator[tuple[str, PixelClick]]:
    """Where an object meets the image's edge: `corner`, `top`, `left`, `bottom` or `right`, and the click there."""
    height, width = truth.shape
    for row in (0, height - 1):
        for column in (0, width - 1):
            if truth[row, column]:
                yield "corner", PixelClick(row, column, True)
    for name, row in (("top", 0), ("bottom", height - 1)):
        if len(on := np.flatnonzero(truth[row])) >= _STRETCH:
            yield name, PixelClick(row, int(on[len(on) // 2]), True)
    for name, column in (("left", 0), ("right", width - 1)):
        if len(on := np.flatnonzero(truth[:, column])) >= _STRETCH:
            yield name, PixelClick(int(on[len(on) // 2]), column, True)


def measure_edges(
    weights: str,
    dataset: str,
    root: Path,
    limit: int | None = None,
    profile: str = "fast",
    margins: Sequence[int] = (0, 5),
) -> dict[str, dict[int, list[float]]]:
    """Clicks on every place where an object meets its image's edge, with each margin.

    Args:
        weights: Name or path of the weights.
        dataset: A key of `training.evaluation.benchmarks.BENCHMARKS`.
        root: The data set's folder, or the shard.
        limit: Only so many objects, spread over the set.
        profile: `exact` or `fast`.
        margins: See `ServingDefaults.click_margin`.

    Returns:
        Place -> margin -> the IoU after each click there; not a number where nothing was found.

    Raises:
        ConfigError: A limit under 1, a margin under 0, or not one object.
        WeightsError: See `icmformer.weights.load`.
    """
    if (limit is not None and limit < 1) or min(margins) < 0:
        raise ConfigError("--limit starts at 1, --margins at 0")
    engine = Engine.from_weights(weights, "cpu", profile)
    predictors = {margin: replace(engine.path, click_margin=margin) for margin in margins}
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: {margin: [] for margin in margins})
    for item in tqdm(load_benchmark(dataset, root, limit), unit="object"):
        image, truth = item.load()
        for place, click in places(truth == 1):
            for margin, predictor in predictors.items():
                annotator = ScriptedAnnotator(truth, [click])
                session = simulate(Stepwise(predictor, image), truth, target_iou=None, annotator=annotator)
                found[place][margin].append(session.ious[-1] if session.mask.any() else np.nan)
    return found


def table(found: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """The figures as text."""
    if not found:
        return "no object reaches the edge of its photo"
    margins = [*next(iter(found.values()))]
    lines = [f"{'where':<8} {'clicks':>6}  " + "  ".join(f"{f'margin {m}: IoU, none':>24}" for m in margins)]
    for place, by_margin in sorted(found.items()):
        cells = [f"{np.nan_to_num(ious).mean():>17.3f} {np.isnan(ious).mean():>6.1%}" for ious in by_margin.values()]
        lines.append(f"{place:<8} {len(by_margin[margins[0]]):>6}  " + "  ".join(cells))
    return "\n".join(lines)
