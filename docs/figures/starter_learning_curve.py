"""Draws starter_learning_curve.png of the table in docs/starter.md: `python docs/figures/starter_learning_curve.py`."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from starter_figures import table_rows

PAGE = Path(__file__).parents[1] / "starter.md"
SETS = ("validation, 427 objects", "962 held-out objects")


def points() -> list[tuple[str, int, tuple[float, ...]]]:
    """Weights, samples, and NoC@90 on each of `SETS`, of every row of the table."""
    table = re.search(r"<!-- learning curve -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert table, f"{PAGE} has no table of the learning curve"
    return [
        (name, int(samples.replace(",", "")), tuple(float(figure.split(",")[0].split("/")[-1]) for figure in figures))
        for name, samples, _, *figures in table_rows(table[1])[2:]
    ]


def draw(picture: Path) -> None:
    """Writes the picture."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    rows = points()
    for number, (axis, title) in enumerate(zip(axes, SETS, strict=True)):
        for name in dict.fromkeys(name for name, *_ in rows):
            curve = [(samples, clicks[number]) for found, samples, clicks in rows if found == name]
            axis.plot(*zip(*curve, strict=True), marker="o", markersize=4, label=name)
        axis.set(title=title, xlabel="samples", xscale="log")
        axis.set_xticks(ticks := (50_000, 100_000, 200_000, 400_000), [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("clicks to 90% IoU")
    axes[1].legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
