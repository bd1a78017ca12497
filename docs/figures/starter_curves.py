"""Draws starter_curves.png: `python docs/figures/starter_curves.py EVALUATIONS BASELINES`.

EVALUATIONS holds GrabCut and Berkeley as written by `training.evaluate`, BASELINES the same by `training.baselines`.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

TARGET, CLICKS = 0.9, range(1, 21)
LINES = {"starter": None, "OpenCV's GrabCut": "grabcut", "random walker": "random-walker"}


def shares(log: Path) -> list[float]:
    """Share of objects that reached the target by each number of clicks."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    firsts = [next((i + 1 for i, v in enumerate(r["ious"]) if v >= TARGET), 99) for r in rows if "ious" in r]
    return [float(np.mean([first <= clicks for first in firsts])) for clicks in CLICKS]


def main() -> None:
    """Reads the two folders and writes the figure beside this file."""
    evaluations, baselines = map(Path, sys.argv[1:])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for axis, dataset in zip(axes, ("GrabCut", "Berkeley"), strict=True):
        for name, method in LINES.items():
            log = (evaluations / dataset if method is None else baselines / dataset / method) / "objects.jsonl"
            axis.plot(CLICKS, shares(log), marker="o", markersize=3, label=name)
        axis.set(title=dataset, xlabel="clicks", ylim=(0, 1), xticks=range(2, 21, 2))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("objects at 90% IoU")
    axes[1].legend()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
