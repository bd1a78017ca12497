"""The README's table of clicks: published figures as they are quoted, the starter's as the card has them."""

import re

import pytest

from tests.conftest import ROOT
from training.evaluation.standard_benchmarks import PUBLISHED

ROWS = {
    cells[0]: (cells[1], cells[2])
    for line in (ROOT / "README.md").read_text().splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
QUOTED = {
    "RITM": "RITM, HRNet-32",
    "FocalClick": "FocalClick, B3",
    "SimpleClick": "SimpleClick, ViT-B",
    "iCMFormer": "iCMFormer, ViT-B",
}


def row(name):
    ((_, figures),) = [(key, value) for key, value in ROWS.items() if key.strip("*").startswith(name)]
    return figures


@pytest.mark.parametrize("name", QUOTED)
def test_a_published_figure_is_quoted_as_it_is(name):
    (published,) = [p for p in PUBLISHED if p.model == QUOTED[name] and p.trained_on == "COCO+LVIS"]
    clicks = [published.clicks[data].partition("/")[2].strip() for data in ("GrabCut", "Berkeley")]
    assert list(row(name)) == clicks


def test_the_starters_figures_are_the_cards():
    card = (ROOT / "icmformer/assets/starter/MODEL_CARD.md").read_text()
    for data, figure in zip(("GrabCut", "Berkeley"), row("starter"), strict=True):
        (noc,) = re.findall(rf"name: {data}}}\n.*(?:\n +- .*)*?\n +- {{type: noc_90,.* value: ([\d.]+)}}", card)
        assert float(figure) == float(noc)
