"""Draws starter_curves.png of the figures in starter_figures.json: `python docs/figures/starter_curves.py`."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from starter_figures import CURVES, FIGURES, OPEN


def draw(picture: Path) -> None:
    """Writes the picture."""
    figures = json.loads(FIGURES.read_text())
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for axis, data in zip(axes, CURVES, strict=True):
        for name, result in (("starter", figures[data]), (OPEN, figures[OPEN][data])):
            axis.plot(range(1, len(result["reached"]) + 1), result["reached"], marker="o", markersize=3, label=name)
        axis.set(title=data, xlabel="clicks", ylim=(0, 1), xticks=range(2, 21, 2))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("objects at 90% IoU")
    axes[1].legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
