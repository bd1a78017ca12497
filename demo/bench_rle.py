"""How much quicker our brush encoder is than Label Studio's own, in one run: `make bench-rle`.

Runs in Label Studio's environment, where both can be imported. Medians on 1080p masks.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))


def _median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> int:
    """Prints a row a mask."""
    from label_studio_sdk.converter import brush

    from icmformer.runs import MaskRuns
    from ls_backend import rle

    rows, columns = np.mgrid[:1080, :1920]
    noise = np.random.default_rng(0).random((1080, 1920))
    disk = (rows - 540) ** 2 + (columns - 960) ** 2 < 400**2
    masks = {"disk": disk, "ragged disk": disk & (noise < 0.97), "noise": noise < 0.5}
    print(f"{'1080p mask':<14} {'ours':>10} {'SDK':>10} {'ratio':>7}")
    for name, mask in masks.items():
        theirs_in = mask.astype(np.uint8) * 255
        runs = MaskRuns.of(mask)
        if rle.encode(runs) != brush.mask2rle(theirs_in):
            print(f"{name}: the encodings differ", file=sys.stderr)
            return 1
        ours = _median(lambda runs=runs: rle.encode(runs), 9)  # type: ignore[misc]
        theirs = _median(lambda mask=theirs_in: brush.mask2rle(mask), 3)  # type: ignore[misc]
        print(f"{name:<14} {1000 * ours:>7.1f} ms {1000 * theirs:>7.1f} ms {theirs / ours:>6.1f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
