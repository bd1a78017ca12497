"""What a click within a pixel of a photo's edge finds: `python -m training.edges --weights W --root train-001.zip`.

Of each object that reaches a corner, or the edge for six pixels or more, the pixel there is clicked: the corner's, or
the middle one of the stretch. For each margin (see `ServingDefaults.click_margin`) the IoU of the mask with the object,
and how often nothing is found, before the engine answers with a guess.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from icmformer import Engine
from icmformer.errors import ConfigError
from icmformer.inference.engine import THRESHOLD
from icmformer.inference.roi import PixelClick
from icmformer.types import BoolMask
from training.command import add_played_objects, exit_status
from training.evaluation.benchmarks import load_benchmark
from training.simulated_annotator import SimulatedAnnotator

_STRETCH = 6  # pixels of an edge


def places(truth: BoolMask) -> Iterator[tuple[str, PixelClick]]:
    """Where an object meets the photo's edge: `corner`, `top`, `left`, `bottom` or `right`, and the click there."""
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


def measure(
    engine: Engine, dataset: str, root: Path, limit: int | None, margins: Sequence[int]
) -> dict[str, dict[int, list[float]]]:
    """Where -> margin -> the IoU after each click there; not a number where nothing was found."""
    predictors = {
        margin: replace(engine.predictor, serving=replace(engine.predictor.serving, click_margin=margin))
        for margin in margins
    }
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: {margin: [] for margin in margins})
    for item in tqdm(load_benchmark(dataset, root, limit), unit="object"):
        image, truth = item.load()
        clicker = SimulatedAnnotator(truth)
        for place, click in places(truth == 1):
            for margin, predictor in predictors.items():
                mask = predictor.step(image, None, [click]).map.over(THRESHOLD)
                found[place][margin].append(clicker.iou(mask) if mask.any() else np.nan)
    return found


def table(found: dict[str, dict[int, list[float]]]) -> str:
    """The figures as text."""
    margins = [*next(iter(found.values()))]
    lines = [f"{'where':<8} {'clicks':>6}  " + "  ".join(f"{f'margin {m}: IoU, none':>24}" for m in margins)]
    for place, by_margin in sorted(found.items()):
        told = [f"{np.nan_to_num(ious).mean():>17.3f} {np.isnan(ious).mean():>6.1%}" for ious in by_margin.values()]
        lines.append(f"{place:<8} {len(by_margin[margins[0]]):>6}  " + "  ".join(told))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.edges", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_played_objects(parser, 700)
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 5], help="pixels of the network's input (0 5)")
    args = parser.parse_args(argv)

    def work() -> int:
        if args.limit < 1 or min(args.margins) < 0:
            raise ConfigError("--limit starts at 1, --margins at 0")
        engine = Engine.from_weights(args.weights, "cpu", args.profile)
        found = measure(engine, args.dataset, args.root, args.limit, args.margins)
        print(table(found) if found else "no object reaches the edge of its photo")
        return 0

    return exit_status(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
