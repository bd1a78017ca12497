"""What a click within a pixel of the image's edge finds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from icmformer import Engine
from icmformer.errors import ConfigError
from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask

from .benchmarks import EvalObject
from .protocol import ScriptedAnnotator, Stepwise, simulate

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
    engine: Engine, objects: Sequence[EvalObject], margins: Sequence[int] = (0, 5)
) -> dict[str, dict[int, list[float]]]:
    """Clicks on every place where an object meets its image's edge, with each `ServingDefaults.click_margin`.

    Returns:
        Place -> margin -> the IoU after each click there; not a number where nothing was found.

    Raises:
        ConfigError: A margin under 0.
    """
    if min(margins) < 0:
        raise ConfigError("--margins start at 0")
    serving = engine.weights.serving
    predictors = {m: replace(engine.predictor, serving=replace(serving, click_margin=m)) for m in margins}
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: {margin: [] for margin in margins})
    for item in tqdm(objects, unit="object"):
        image, truth = item.load()
        for place, click in places(truth == 1):
            for margin, predictor in predictors.items():
                annotator = ScriptedAnnotator(truth, [click])
                session = simulate(Stepwise(predictor, image), truth, serving.threshold, None, annotator=annotator)
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
