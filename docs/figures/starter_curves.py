"""Draws starter_curves.png, of the figures in starter_figures.json and baselines.json.

python docs/figures/starter_curves.py [--baselines DIR]

DIR holds GrabCut and Berkeley as `training.baselines` writes them, and is taken into baselines.json before. They do
not depend on the weights.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from starter_figures import BASELINE_FIGURES, BASELINES, CURVES, FIGURES, OPEN

from training.command_line import exit_status

KEPT = ("objects", "noc", "never", "miou_at_1")


def take(baselines: Path) -> None:
    """Keeps the figures of baselines beside this file."""
    found: dict[str, dict[str, object]] = {data: {} for data in CURVES}
    for data, methods in found.items():
        for method in BASELINES:
            result = json.loads((baselines / data / method / "results.json").read_text())
            methods[method] = {key: result[key] for key in KEPT} | {"reached": result["reached"]["90"]}
    BASELINE_FIGURES.write_text(json.dumps(found, indent=1) + "\n")


def draw(picture: Path) -> None:
    """Writes the picture."""
    figures, baselines = json.loads(FIGURES.read_text()), json.loads(BASELINE_FIGURES.read_text())
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for axis, data in zip(axes, CURVES, strict=True):
        lines = {"starter": figures[data], OPEN: figures[OPEN][data]}
        lines |= {words.partition(",")[0]: baselines[data][method] for method, words in BASELINES.items()}
        for name, result in lines.items():
            axis.plot(range(1, len(result["reached"]) + 1), result["reached"], marker="o", markersize=3, label=name)
        axis.set(title=data, xlabel="clicks", ylim=(0, 1), xticks=range(2, 21, 2))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("objects at 90% IoU")
    axes[1].legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baselines", type=Path, metavar="DIR", help="take these results into baselines.json before")
    args = parser.parse_args(argv)

    def work() -> None:
        if args.baselines:
            take(args.baselines)
        draw(Path(__file__).with_suffix(".png"))

    return exit_status(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
