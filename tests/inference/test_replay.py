"""Clicks whose order between the kinds is lost are replayed as an annotator would have made them."""

import numpy as np
from skimage import data

from icmformer import Click, LoadedImage
from training.evaluation.benchmarks import load_benchmark
from training.evaluation.protocol import Stepwise, simulate
from training.tools.overfit import write_images


def replayed_alike(engine, image, truth):
    """Of clicks made where the mask was wrong, up to 90% IoU: which counts of them give the same reply without their
    mutual order, and which when positive ones simply come first."""
    played = simulate(Stepwise(engine.predictor, image), truth, engine.weights.serving.threshold, max_clicks=6)
    clicks = [Click(c.column + 0.5, c.row + 0.5, c.positive) for c in played.clicks]
    found, positive_first = [], []
    for count in range(1, len(clicks) + 1):
        unordered = sorted(clicks[:count], key=lambda c: not c.positive)
        true = engine.segment(image, clicks[:count])
        found.append(engine.segment(image, unordered, ordered=False) == true)
        positive_first.append(engine.segment(image, unordered) == true)
    return found, positive_first


def test_the_order_of_an_annotators_clicks_is_mostly_found_again(fast, tmp_path):
    write_images(tmp_path)
    found = [f for item in load_benchmark("folder", tmp_path) for f in replayed_alike(fast, *item.load())[0]]
    assert np.mean(found) >= 0.9


def test_it_is_found_more_often_than_by_positive_clicks_first(fast):
    """On parts of photos that are no objects, which take clicks of both kinds in turn."""
    found, positive_first = [], []
    rocket = data.rocket()[110:410, 100:551]
    for picture in (rocket, data.astronaut()[::2, ::2], data.chelsea(), data.coffee()[::2, ::2]):
        height, width = picture.shape[:2]
        truth = np.zeros((height, width), np.int32)
        truth[height // 5 : 7 * height // 10, width // 4 : 7 * width // 10] = 1
        alike = replayed_alike(fast, LoadedImage.from_array(np.ascontiguousarray(picture)), truth)
        found += alike[0]
        positive_first += alike[1]
    assert np.mean(found) >= np.mean(positive_first) + 0.1
