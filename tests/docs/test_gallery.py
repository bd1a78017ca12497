"""The gallery says what the engine answers, of pictures that anybody may pass on."""

import importlib.util
import re
import sys

import numpy as np
import pytest
from PIL import Image

from icmformer import Engine
from tests.conftest import ROOT

PAGE = (ROOT / "docs/gallery.md").read_text()
SPEC = importlib.util.spec_from_file_location("gallery", ROOT / "docs/figures/gallery.py")
gallery = sys.modules["gallery"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)
TOLD = re.compile(r"([A-Z0-9][\w ]*): score (\d\.\d\d)(?:, IoU (\d\.\d\d))?\.")


@pytest.fixture(scope="module")
def engine():
    return Engine.from_weights("starter", profile="exact")


@pytest.mark.parametrize("entry", gallery.ENTRIES, ids=lambda entry: entry.name)
def test_figures_and_pictures_are_those_of_the_engine(entry, engine):
    text = PAGE.partition(f"(figures/gallery_{entry.name}.webp)\n\n")[2].partition("\n\n")[0]
    told = TOLD.findall(text)
    panels = []
    for (words, score, iou), (step, result, true) in zip(told, gallery.answers(engine, entry), strict=True):
        assert words == step.words
        assert float(score) == pytest.approx(result.score, abs=0.03)
        assert bool(iou) == (true is not None)
        assert not iou or float(iou) == pytest.approx(true, abs=0.03)
        panels += [gallery.panel(entry, step, result.mask)] if step.shown else []
    kept = ROOT / f"docs/figures/gallery_{entry.name}.webp"
    drawn = np.concatenate([np.asarray(panel, float) for panel in panels], axis=1)
    picture = np.asarray(Image.open(kept).convert("RGB"), float)
    gap = np.ones(picture.shape[1], bool)
    for number in range(1, len(panels)):
        gap[number * (gallery.WIDTH + gallery.GAP) - gallery.GAP :][: gallery.GAP] = False
    assert np.abs(picture[:, gap] - drawn).mean() < 8  # what WebP loses


def test_the_page_has_every_entry_and_no_other_and_pictures_are_small():
    names = {entry.name for entry in gallery.ENTRIES}
    assert set(re.findall(r"figures/gallery_(\w+)\.webp", PAGE)) == names
    files = {
        path.stem.removeprefix("gallery_"): path.stat().st_size for path in ROOT.glob("docs/figures/gallery_*.webp")
    }
    assert set(files) == names
    assert max(files.values()) < 60_000
    assert sum(files.values()) < 600_000
