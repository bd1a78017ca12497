import numpy as np
import pytest
import torch

from icmformer.inference.prompts import BoxStart
from icmformer.types import Box
from training.loop.boxes import NO_BOX, box_prompt, ellipses


@pytest.fixture
def target():
    mask = np.zeros((64, 96), np.uint8)
    mask[20:51, 30:71] = 1  # 31 rows, 41 columns
    mask[60:] = 255
    return mask


def drawn(target, seeds, share=1.0):
    points = np.full((8, 3), -1.0, np.float32)
    points[0], points[4] = (25, 35, 0), (5, 5, 1)
    return [box_prompt(target, points.copy(), share, np.random.default_rng(seed)) for seed in range(seeds)], points


def test_boxes_lie_around_the_object_as_loosely_as_annotators_draw_them(target):
    prompts, _ = drawn(target, 300)
    boxes = np.array([box for box, _ in prompts])
    assert (np.abs(boxes - [20, 50, 30, 70]) <= [3, 3, 4, 4]).all()
    assert (boxes.min(axis=0) < [20, 50, 30, 70]).all()
    assert (boxes.max(axis=0) > [20, 50, 30, 70]).all()


def test_beside_a_box_are_the_drawn_clicks_one_in_its_middle_or_none(target):
    prompts, points = drawn(target, 300)
    kinds = {"drawn": 0, "middle": 0, "none": 0}
    for box, clicks in prompts:
        used = clicks[clicks[:, 2] >= 0]
        if np.array_equal(clicks, points):
            kinds["drawn"] += 1
        elif len(used):
            kinds["middle"] += 1
            np.testing.assert_array_equal(used, [[(box[0] + box[1]) // 2, (box[2] + box[3]) // 2, 0]])
        else:
            kinds["none"] += 1
    assert min(kinds.values()) > 70
    target[30:40, 40:60] = 0  # a hole in the middle: no positive click there
    assert all((clicks[0, 2] < 0) or tuple(clicks[0, :2]) == (25, 35) for _, clicks in drawn(target, 60)[0])


def test_the_share_of_boxes_is_as_asked_and_without_an_object_there_is_none(target):
    boxes = [box for box, _ in drawn(target, 1000, 0.15)[0]]
    assert np.mean([box[0] >= 0 for box in boxes]) == pytest.approx(0.15, abs=0.04)
    for share, mask in ((0.0, target), (1.0, target * 0)):
        prompts, points = drawn(mask, 5, share)
        for box, clicks in prompts:
            assert tuple(box) == NO_BOX
            np.testing.assert_array_equal(clicks, points)


def test_first_guesses_are_those_of_serving():
    boxes = [(20, 50, 30, 70), NO_BOX, (0, 63, 0, 95), (5, 5, 7, 9)]
    masks = ellipses(torch.tensor(boxes, dtype=torch.int16), (64, 96))
    assert masks.shape == (4, 1, 64, 96)
    assert not masks[1].any()
    for (top, bottom, left, right), mask in zip(boxes, masks, strict=True):
        if top < 0:
            continue
        prediction, _ = BoxStart("ellipse")(Box(left, top, right + 1, bottom + 1), None, 64, 96)
        np.testing.assert_array_equal(mask[0].numpy(), prediction.map.full())
