"""The pages tell what was measured of the weights that ship."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from icmformer import weights
from icmformer.images.masks import write_image, write_mask
from icmformer.images.reading import read_image
from tests.conftest import ROOT


def script(path):
    """A script of the pictures, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


starter_figures = script("docs/figures/starter_figures.py")
starter_curves = script("docs/figures/starter_curves.py")
starter_learning_curve = script("docs/figures/starter_learning_curve.py")
FIGURES = json.loads(starter_figures.FIGURES.read_text())


def test_the_figures_are_of_the_weights_that_ship_as_they_are_served():
    assert set(dict(starter_figures.evaluations(ROOT, ROOT))) < FIGURES.keys()
    for figures, name in ((FIGURES, "starter"), (FIGURES["starter-open"], "starter-open")):
        shipped = weights.load(name)
        assert (figures["sha256"], figures["identity"]) == (shipped.sha256, shipped.identity)
        assert (figures["GrabCut"]["objects"], figures["Berkeley"]["objects"]) == (50, 100)
        assert len(figures["GrabCut"]["miou"]) == 20
        assert figures["validation"]["objects"] == 427


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
    assert re.sub(r"[\d.]", "", changed) == re.sub(r"[\d.]", "", text)
    with pytest.raises(ValueError, match="has 0 sentences such as"):
        starter_figures.updated("README.md", text.replace("it needs", "it wants"), FIGURES)


def test_the_curves_are_of_the_same_figures(tmp_path):
    for data in starter_figures.CURVES:
        for result in (FIGURES[data], FIGURES["starter-open"][data]):
            shares = result["reached"]
            assert len(shares) == 20
            assert shares == sorted(shares)
            assert round((1 - shares[-1]) * result["objects"]) == result["never"]["90"]
            assert 20 - sum(shares[:-1]) == pytest.approx(
                result["noc"]["90"]
            )  # who is there after a click spares the next
    starter_curves.draw(tmp_path / "curves.png")
    assert read_image(tmp_path / "curves.png").pixels.std() > 10


def test_the_learning_curve_ends_with_what_ships(tmp_path):
    last = {name: clicks for name, _, clicks in starter_learning_curve.points()}
    page = starter_learning_curve.PAGE.read_text()
    for name, figures in (("starter", FIGURES), ("starter-open", FIGURES["starter-open"])):
        shipped = [figures[data] for data in ("validation", "never trained")]
        assert last[name] == pytest.approx([one["noc"]["90"] for one in shipped], abs=0.005)
        for one in shipped:
            clicks = " / ".join(f"{one['noc'][target]:.2f}" for target in ("80", "85", "90"))
            assert f"| {clicks}, {one['never']['90']}, {one['miou_at_1']:.3f} |" in page
    starter_learning_curve.draw(tmp_path / "curve.png")
    assert read_image(tmp_path / "curve.png").pixels.std() > 10


def test_fewer_clicks_and_a_higher_iou_reach_a_goal():
    other = json.loads(json.dumps(FIGURES))
    for clicks, iou, reached in ((1.95, 0.8, "yes"), (1.954, 0.799, "**no**")):
        other["GrabCut"]["noc"]["90"], other["box"]["miou_at_box"] = clicks, iou
        lines = starter_figures.goals(other)
        assert f"| GrabCut, NoC@90 | 1.95 | 1.95 | {reached} |" in lines
        assert f"| mIoU after a box | 0.8 | 0.80 | {reached} |" in lines


@pytest.mark.slow
def test_the_commands_measure_everything_and_write_it(tmp_path, shard_root, monkeypatch):
    picture = np.full((60, 80, 3), 40, np.uint8)
    truth = np.zeros((60, 80), bool)
    truth[15:45, 20:60] = True
    picture[truth] = 210
    for name, images, masks in (("GrabCut", "data_GT", "boundary_GT"), ("Berkeley", "images", "masks")):
        for folder in (images, masks):
            (tmp_path / name / folder).mkdir(parents=True)
        write_image(tmp_path / name / images / "a.png", picture)
        write_mask(tmp_path / name / masks / "a.png", truth)
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("train-000.zip", "train-001.zip", "val-000.zip"):
        shutil.copy(shard_root / "tiny.zip", shards / name)
    monkeypatch.setattr(starter_figures, "FIGURES", tmp_path / "figures.json")
    options = ["--benchmarks", str(tmp_path), "--shards", str(shards), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert starter_figures.main(["measure", *options]) == 0
    measured = json.loads((tmp_path / "figures.json").read_text())
    assert measured.keys() == FIGURES.keys()
    assert measured["starter-open"].keys() == FIGURES["starter-open"].keys()
    assert measured["GrabCut"]["objects"] == 1
    assert measured["GrabCut"]["miou"][-1] > 0.9  # a bright rectangle
    assert measured["box"]["miou_at_box"] > 0.8

    monkeypatch.setattr(starter_figures, "ROOT", tmp_path)
    pages = {page: tmp_path / page for page in starter_figures.PAGES}
    for page, path in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"\d\.\d\d", "7.77", (ROOT / page).read_text()))
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES))
    assert starter_figures.main(["write"]) == 0
    card = pages["icmformer/assets/starter/MODEL_CARD.md"].read_text()
    assert f"value: {FIGURES['Berkeley']['noc']['90']:.2f}}}" in card
    assert f"value: {FIGURES['GrabCut']['miou_at_1']:.3f}}}" in card
    open_card = pages["icmformer/assets/starter-open/MODEL_CARD.md"].read_text()
    assert f"value: {FIGURES['starter-open']['Berkeley']['noc']['90']:.2f}}}" in open_card
    assert card.count("7.77") < 12  # of the baselines and of published networks, which are not measured here
