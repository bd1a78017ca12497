import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from icmformer.weights import ServingDefaults
from training.calibrate import main
from training.evaluation.calibration import lower_chance, tables


def test_the_tables_are_those_of_hand_made_masks():
    sure, unsure = np.full((8, 8), 0.02, np.float16), np.full((8, 8), 0.3, np.float16)
    sure[2:6, 2:6] = unsure[2:6, 2:6] = 0.98
    told = tables([sure, unsure], np.array([0.95, 0.35]), ServingDefaults(score_sharpness=2.5))
    rows = [line.split() for line in told.splitlines()]
    assert rows[0][:2] == ["2", "masks,"]
    one = next(row for row in rows if row[0] == "1.0")
    # by hand, odds against the threshold of 0.49: q = o / (1 + o)
    odds = {p: p / (1 - p) * 0.51 / 0.49 for p in (0.02, 0.3, 0.98)}
    q = {p: odd / (1 + odd) for p, odd in odds.items()}
    scores = [16 * q[0.98] / (16 + 48 * q[p]) for p in (0.02, 0.3)]
    assert float(one[1]) == pytest.approx(np.mean(scores), abs=2e-3)
    assert float(one[2]) == pytest.approx(np.mean(np.abs(np.array(scores) - [0.95, 0.35])), abs=2e-3)
    assert float(one[3]) == pytest.approx(1)
    assert [row[0] for row in rows if row[-1:] == ["*"]] == ["2.5"]


def test_how_often_a_bad_mask_scores_lower_is_the_area_under_the_roc_curve():
    rng = np.random.default_rng(0)
    bad = rng.random(200) < 0.3
    scores = np.round(rng.normal(0.7 - 0.2 * bad, 0.2), 1)  # with ties
    usual = mannwhitneyu(scores[~bad], scores[bad]).statistic / (bad.sum() * (~bad).sum())
    assert lower_chance(scores, bad) == pytest.approx(usual)
    assert 0.6 < usual < 0.95
    assert np.isnan(lower_chance(scores, np.zeros(200, bool)))


def test_the_command_prints_them(shard_root, capsys):
    arguments = ["--weights", "starter", "--root", str(shard_root / "tiny.zip"), "--limit", "2", "--clicks", "2"]
    assert main(arguments) == 0
    assert "4 masks, mean IoU" in capsys.readouterr().out
    for wrong in (["--limit", "0"], ["--clicks", "-1"]):
        assert main([*arguments, *wrong]) == 2
        assert "starts at 1" in capsys.readouterr().err
    assert main(["--root", str(shard_root / "none.zip")]) == 2
    assert "error:" in capsys.readouterr().err
