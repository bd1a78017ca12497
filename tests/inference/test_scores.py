"""Scores: the IoU that a mask may be expected to have, sharpened as the weights say."""

import json

import numpy as np
import pytest
import torch
from skimage import data

from icmformer import Caches, Click, LoadedImage, weights
from icmformer.inference.engine import expected_iou
from icmformer.inference.roi import PixelClick
from icmformer.weights import AS_PUBLISHED, ServingDefaults
from tests.conftest import ROOT
from tests.engines import engine

SHARP = ServingDefaults(score_sharpness=2.5)
CLICK = Click(200.5, 120.5)


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(data.rocket()[110:410, 100:551])


@pytest.mark.parametrize("sharpness", [1.0, 2.5])
def test_scores_are_sharpened_as_the_weights_say(photo, sharpness):
    """What fits one network need not fit another: weights that say nothing are taken at their word."""
    asked = engine(score_sharpness=sharpness, refinement_pass=False)
    result = asked.segment(photo, [CLICK])
    click = PixelClick(*CLICK.pixel(*photo.shape[:2]), True)
    patch = asked.predictor.step(LoadedImage.from_array(photo), None, [click]).patch
    assert result.score == expected_iou(patch, ServingDefaults(score_sharpness=sharpness))
    assert result.score != engine(score_sharpness=4.0, refinement_pass=False).segment(photo, [CLICK]).score


def test_weights_that_say_nothing_are_taken_at_their_word():
    assert weights.load("random:icmformer_vit_tiny224").serving.score_sharpness == 1
    config = json.loads((ROOT / "icmformer/assets/starter/config.json").read_text())
    assert weights.load("starter").serving.score_sharpness == config["score_sharpness"] != 1


def test_the_score_is_the_expected_iou():
    patch = np.array([[1.0, 0.8], [0.4, 0.0]], np.float32)
    odds = np.array([0.8 / 0.2, 0.4 / 0.6]) * 0.51 / 0.49
    for sharpness in (1.0, 2.5):
        sure, unsure = odds**sharpness / (1 + odds**sharpness)
        expected = (1 + sure) / (2 + unsure)
        assert expected_iou(patch, ServingDefaults(score_sharpness=sharpness)) == pytest.approx(expected, abs=1e-4)
    assert expected_iou(patch, SHARP) > expected_iou(patch, AS_PUBLISHED)
    assert expected_iou(np.zeros((3, 3), np.float32), SHARP) == 0
    assert expected_iou(np.ones((3, 3), np.float32), SHARP) == pytest.approx(1, abs=1e-6)


def test_a_guess_scores_nothing(monkeypatch):
    """What is not found in the photo, even where a pixel of the network's own input is over the line."""
    patch = torch.full((1, 1, 320, 320), 0.2)
    patch[..., 100, 100] = 0.6  # a photo of two pixels a side shows the patch's corners
    asked = engine("fast", Caches(), of="starter")
    monkeypatch.setattr(asked.backend, "decode", lambda *_: patch.logit())
    result = asked.segment(np.zeros((2, 2, 3), np.uint8), [Click(0.5, 0.5)])
    assert expected_iou(patch.numpy(), SHARP) > 0
    assert result.probability.max() < 0.49
    assert result.mask[0, 0]
    assert result.score == 0
