"""The README's table of clicks: published figures as they are quoted, the starter's as the card has them."""

import re

import pytest

from tests.conftest import ROOT
from training.evaluation.standard_benchmarks import PUBLISHED

ROWS = {
    cells[0].partition(" (")[0]: (cells[1], cells[2])
    for line in (ROOT / "README.md").read_text().splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
PUBLISHED_ROWS = {p.model: p for p in PUBLISHED if p.trained_on in ("COCO+LVIS", "SA-1B") and p.model in ROWS}


def row(name):
    ((_, figures),) = [(key, value) for key, value in ROWS.items() if key.partition(",")[0].strip("*") == name]
    return figures


def test_published_networks_of_every_size_are_quoted():
    assert len(PUBLISHED_ROWS) >= 7
    for name in ("RITM", "FocalClick", "SimpleClick", "iCMFormer", "SAM"):
        assert any(key.startswith(name) for key in ROWS), name


@pytest.mark.parametrize("name", PUBLISHED_ROWS)
def test_a_published_figure_is_quoted_as_it_is(name):
    quoted = PUBLISHED_ROWS[name].clicks
    assert list(ROWS[name]) == [quoted[data].partition("/")[2].strip() for data in ("GrabCut", "Berkeley")]


@pytest.mark.parametrize("name", ["starter", "starter-open"])
def test_the_bundled_weights_figures_are_their_cards(name):
    card = (ROOT / "icmformer/assets" / name / "MODEL_CARD.md").read_text()
    for data, figure in zip(("GrabCut", "Berkeley"), row(name), strict=True):
        (noc,) = re.findall(rf"name: {data}}}\n.*(?:\n +- .*)*?\n +- {{type: noc_90,.* value: ([\d.]+)}}", card)
        assert float(figure) == float(noc)
