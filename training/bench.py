"""`python -m training.bench`: what a click costs, as ratios to the published path measured in the same run.

The published path runs the whole network on the crop and its mirror image in fp32 and keeps nothing. A later click is
the third on an object whose region stays, caches warm.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from skimage import data, transform

from icmformer import Caches, Click, Engine, IcmformerError, LoadedImage
from icmformer.inference.profiles import PROFILES
from icmformer.inference.runner import WholeRunner
from icmformer.inference.session import ClickPath, State
from icmformer.inference.zoom import PixelClick
from icmformer.types import RGBImage
from icmformer.weights import load

PUBLISHED = "random:icmformer_vit_base448"


def photo(megapixels: float) -> RGBImage:
    """A real photo, resized to a number of megapixels."""
    image = data.astronaut()
    side = round((megapixels * 1e6) ** 0.5)
    return (transform.resize(image, (side, side), order=1) * 255).astype(np.uint8)


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def clicks_on(image: RGBImage) -> list[Click]:
    """Three clicks on one object of the photo."""
    height, width = image.shape[:2]
    return [
        Click(0.45 * width, 0.5 * height),
        Click(0.4 * width, 0.7 * height),
        Click(0.9 * width, 0.1 * height, False),
    ]


def published_click(image: RGBImage, weights: str, repeats: int) -> float:
    """Milliseconds of the published path's click."""
    engine = Engine.from_weights(weights, caches=Caches())
    path = ClickPath(WholeRunner(engine.weights.build()), engine.path.zoom, flip=True)
    loaded = LoadedImage.from_array(image)
    click = PixelClick(image.shape[0] // 2, image.shape[1] // 2, True)
    return median_ms(lambda: path.advance(loaded, State(), [click]).map.full(), repeats)


def first_and_later(image: RGBImage, weights: str, profile: str, repeats: int) -> tuple[float, float]:
    """Milliseconds of a first click with cold caches, and of a third one with warm caches."""
    loaded, clicks = LoadedImage.from_array(image), clicks_on(image)
    made = load(weights)

    without = Engine(made, profile=profile, caches=Caches())  # keeps nothing: every click is a first one
    cold = median_ms(lambda: without.segment(loaded, clicks[:1]), repeats)
    times = []
    warm = Engine(made, profile=profile)
    warm.segment(loaded, clicks)  # not counted
    for n in range(repeats):
        shifted = [*clicks[:2], Click(clicks[2].x, clicks[2].y + n + 1, False)]
        warm.segment(loaded, shifted[:2])
        start = time.perf_counter()
        warm.segment(loaded, shifted)
        times.append(1000 * (time.perf_counter() - start))
    return cold, statistics.median(times)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", default=[PUBLISHED, "starter"], help="networks to time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    image = photo(args.megapixels)
    try:
        base = published_click(image, PUBLISHED, args.repeats)
        rows = [("published path, ViT-B", base, base)]
        for weights in args.weights:
            for profile in PROFILES:
                rows.append((f"{weights}, {profile}", *first_and_later(image, weights, profile, args.repeats)))
    except IcmformerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {args.threads} threads, {args.megapixels:g} megapixels, medians of {args.repeats}")
    print(f"{'':<46} {'first click':>18} {'later click':>18}")
    for name, first, later in rows:
        print(f"{name:<46} {first:>8.0f} ms {base / first:>5.1f}x {later:>8.0f} ms {base / later:>5.1f}x")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, **{k: str(v) for k, v in vars(args).items()}}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
