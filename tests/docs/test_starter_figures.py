"""The pages tell what was measured of the weights that ship."""

import importlib.util
import json
import re
import sys

import pytest

from icmformer import weights
from tests.conftest import ROOT

SPEC = importlib.util.spec_from_file_location("starter_figures", ROOT / "docs/figures/starter_figures.py")
starter_figures = sys.modules["starter_figures"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(starter_figures)
FIGURES = json.loads(starter_figures.FIGURES.read_text())


def test_the_figures_are_of_the_weights_that_ship_as_they_are_served():
    starter = weights.load("starter")
    assert (FIGURES["sha256"], FIGURES["identity"]) == (starter.sha256, starter.identity)
    names = [name for name, _ in starter_figures.evaluations(ROOT, ROOT)]
    assert set(names) < FIGURES.keys()
    assert (FIGURES["GrabCut"]["objects"], FIGURES["Berkeley"]["objects"]) == (50, 100)
    assert len(FIGURES["GrabCut"]["miou"]) == 20


@pytest.mark.parametrize("page", starter_figures.PAGES)
def test_pages_tell_them(page):
    text = (ROOT / page).read_text()
    assert starter_figures.updated(page, text, FIGURES) == text, "run docs/figures/starter_figures.py write"


def test_every_table_and_sentence_is_on_a_page():
    texts = {page: (ROOT / page).read_text() for page in starter_figures.PAGES}
    for name in starter_figures.BLOCKS:
        assert any(f"<!-- starter {name} -->" in text for text in texts.values()), name
    assert {page for page, _ in starter_figures.SENTENCES} <= texts.keys()


def test_other_figures_change_numbers_and_nothing_else():
    other = json.loads(json.dumps(FIGURES))
    other["never trained"]["noc"]["90"] = 1.26
    text = (ROOT / "README.md").read_text()
    changed = starter_figures.updated("README.md", text, other)
    assert "it needs 1.3 clicks" in re.sub(r"\s+", " ", changed)
    assert re.sub(r"\d", "", changed.replace("1.3 clicks", "")) == re.sub(
        r"\d", "", re.sub(r"needs\s\S+ clicks", lambda m: m.group().rsplit(" ", 2)[0] + " ", text)
    )
    with pytest.raises(ValueError, match="has 0 sentences such as"):
        starter_figures.updated("README.md", text.replace("it needs", "it wants"), FIGURES)
