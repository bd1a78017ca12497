"""The baselines on a picture in which they cannot be wrong, and as a command."""

import json

import numpy as np
import pytest

from icmformer.inference.roi import PixelClick
from tests.training.loop.test_samples import write_pair
from training.baselines import main
from training.evaluation.baselines import METHODS


@pytest.fixture
def scene():
    """A blue disk on gray, with a little noise, and a smaller blue disk apart from it."""
    rows, columns = np.mgrid[:120, :160]
    disk = (rows - 60) ** 2 + (columns - 60) ** 2 < 30**2
    other = (rows - 30) ** 2 + (columns - 130) ** 2 < 14**2
    image = np.random.default_rng(0).integers(100, 125, (120, 160, 3))
    image[disk | other] += np.array([-80, -80, 120])
    return image.clip(0, 255).astype(np.uint8), disk


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_disk_is_found_by_its_clicks(method, scene):
    image, disk = scene
    predict = METHODS[method](image)
    clicks = [PixelClick(60, 60, True), PixelClick(30, 130, False), PixelClick(100, 120, False)]
    probability, _ = predict(clicks)
    found = probability > 0.5
    assert (found & disk).sum() / (found | disk).sum() > 0.9
    again, _ = METHODS[method](image)(clicks)
    np.testing.assert_array_equal(probability, again)
    assert not found[30, 130]


@pytest.mark.parametrize("method", METHODS)
def test_negative_clicks_alone_give_nothing(method, scene):
    probability, _ = METHODS[method](scene[0])([PixelClick(5, 5, False)])
    assert not (probability > 0.5).any()


def test_the_command_writes_results_a_method(scene, tmp_path, capsys):
    image, disk = scene
    write_pair(tmp_path / "set", "disk", image, disk.astype(np.uint8) * 255)
    line = ["--dataset", "folder", "--root", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    assert main(line) == 0
    for method in METHODS:
        results = json.loads((tmp_path / "out" / method / "results.json").read_text())
        assert results["objects"] == 1
        assert 1 <= results["noc"]["90"] < 20
        assert (tmp_path / "out" / method / "curve.png").stat().st_size > 0
    assert "random-walker" in capsys.readouterr().out
    assert main([*line, "--all-clicks"]) == 2
    assert "another run" in capsys.readouterr().err
    assert main(["--dataset", "folder", "--root", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
