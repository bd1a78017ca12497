import numpy as np
import pytest
import torch
from scipy import ndimage

from icmformer.models import ImageFeatures
from tests.training.conftest import TINY_RUN
from training.data.sources import open_images
from training.loop.clicks import PointsConfig
from training.loop.config import parse_config
from training.loop.samples import Sample, SampleSet, collate
from training.loop.trainer import IterativePass
from training.loop.unfinished import unfinished_mask, unfinished_prompt

THRESHOLD = 0.49


@pytest.fixture
def target():
    mask = np.zeros((120, 160), np.uint8)
    mask[30:90, 40:110] = 1
    mask[53:57, 110:140] = 1  # a thin part
    mask[60:70, 60:70] = 0  # a hole
    mask[:8] = 255
    return mask


@pytest.fixture
def others():
    mask = np.zeros((120, 160), bool)
    mask[92:115, 40:110] = True
    return mask


def no_clicks():
    return np.full((32, 3), -1.0, np.float32)


def prompts(target, others, seeds, share=1.0):
    """For each seed the mask and the clicks, one of which was there before."""
    made = []
    for seed in range(seeds):
        points = no_clicks()
        points[0] = (40, 50, 0)
        rng = np.random.default_rng(seed)
        made.append(unfinished_prompt(target, others, points, PointsConfig(12, unfinished=share), THRESHOLD, rng))
    return made


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_masks_are_nearly_right_and_each_in_its_own_way(target, others):
    truth = target == 1
    masks = [unfinished_mask(truth, others, np.random.default_rng(seed)) / 255 > THRESHOLD for seed in range(200)]
    ious = np.array([iou(mask, truth) for mask in masks])
    assert 0.75 < np.median(ious) < 0.95
    assert (ious > 0.4).mean() > 0.97
    assert (ious < 0.99).mean() > 0.97
    thin, hole = np.s_[53:57, 115:138], np.s_[62:68, 62:68]
    assert 0.1 < np.mean([not mask[thin].any() for mask in masks]) < 0.5  # lost
    assert 0.1 < np.mean([mask[hole].all() for mask in masks]) < 0.5  # filled
    assert 0.1 < np.mean([mask[others].mean() > 0.1 for mask in masks]) < 0.6  # leaked into the neighbour


def test_what_meets_the_edge_of_the_input_ends_there(others):
    for truth in (np.ones((120, 160), bool), np.arange(160)[None].repeat(120, 0) < 80):
        kept = []
        for seed in range(60):
            mask = unfinished_mask(truth, np.zeros_like(truth), np.random.default_rng(seed)) > 127
            kept.append(mask[[0, -1], :40].mean())
        assert np.mean(kept) > 0.85  # no rim of background along the edge


def test_the_last_of_many_clicks_is_deep_in_the_largest_error(target, others):
    counts = []
    for previous, points in prompts(target, others, 60):
        marked = previous > 255 * THRESHOLD
        made = points[:, 2] >= 0
        assert (target[tuple(points[:16][made[:16], :2].astype(int).T)] == 1).all()
        assert (target[tuple(points[16:][made[16:], :2].astype(int).T)] == 0).all()
        counts.append(made.sum())
        added = [(point, i < 16) for i, point in enumerate(points) if made[i] and point[2] == made.sum() - 1]
        depths = {
            kind: ndimage.distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
            for kind, wrong in ((True, (target == 1) & ~marked), (False, (target == 0) & marked))
        }
        assert len(added) == 1
        (row, column, _), positive = added[0]
        largest = max(depth.max() for depth in depths.values())
        assert depths[positive][int(row), int(column)] > 0.4 * largest  # half, by distances that OpenCV approximates
    assert 4 < np.mean(counts) < 12


def test_the_share_is_as_asked_and_without_an_object_there_is_none(target, others):
    made = prompts(target, others, 600, 0.3)
    assert np.mean([previous is not None for previous, _ in made]) == pytest.approx(0.3, abs=0.06)
    assert all((points[:, 2] >= 0).sum() == 1 for previous, points in made if previous is None)
    assert all(previous is None for previous, _ in prompts(target * 0, others, 5))
    assert all(previous is None for previous, _ in prompts(target, others, 5, 0.0))


class Remembers(torch.nn.Module):
    """Says nothing of the object, and remembers the previous masks that it was shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def encode_image(self, image):
        return ImageFeatures(image.shape[2:], (image,))

    def prompt_map(self, previous, points):
        self.shown.append(previous)
        return previous

    def decode_map(self, features, prompt):
        return torch.zeros_like(prompt)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_pass_begins_with_the_masks_and_boxes_of_its_samples(target, others, rounds):
    previous = unfinished_mask(target == 1, others, np.random.default_rng(0))
    image, nothing = np.zeros((120, 160, 3), np.uint8), np.array([-1, -1, -1, -1], np.int16)
    box = np.array([30, 89, 40, 109], np.int16)
    plain = Sample(0, image, target, no_clicks(), nothing)
    batch = collate([plain, Sample(1, image, target, no_clicks(), nothing, previous=previous)])
    mixed = collate([Sample(2, image, target, no_clicks(), box), *(plain,) * 2])
    both = collate(
        [
            Sample(2, image, target, no_clicks(), box),
            Sample(3, image, target, no_clicks(), nothing, previous=previous),
        ]
    )
    assert collate([plain]).previous is None
    assert mixed.previous is None
    for given, expected in ((batch, [0, previous / 255]), (both, [None, previous / 255])):
        for part in (given, *given.split(2)):
            network = Remembers()
            IterativePass(network)(part.pixels(torch.device("cpu")), part, rounds, seed=0)
            for number, shown in zip(part.numbers, network.shown[0], strict=True):
                wanted = expected[given.numbers.index(number)]
                if wanted is None:
                    assert 0.7 < shown[0, 30:90, 40:110].mean() < 0.85  # the ellipse in the box
                    assert not shown[0, :30].any()
                else:
                    np.testing.assert_allclose(shown[0].numpy(), np.broadcast_to(wanted, (120, 160)), atol=1e-6)
            if rounds:
                assert (network.shown[1] == 0.5).all()  # then it begins with its own


def test_there_is_room_for_the_click_that_corrects_whatever_the_config_allows(shard_root):
    config = {**TINY_RUN, "max_rounds": 0, "points": {"max_points": 1, "unfinished": 1.0}}
    samples = SampleSet(open_images(shard_root, ["tiny.zip"]), parse_config(config))
    for number in range(40):
        sample = samples.sample(number)
        marked = sample.previous > 255 * THRESHOLD
        wrong = (marked != (sample.target == 1)) & (sample.target != 255)
        made = sample.points[sample.points[:, 2] >= 0]
        last = made[made[:, 2].argmax(), :2].astype(int)
        assert len(made) >= 2
        assert wrong[tuple(last)] or not wrong.any()
