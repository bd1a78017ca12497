"""Simulated clicks on known masks."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, gaussian_filter

from training.loop.clicks import PointsConfig, add_click, first_clicks, published_clicks, used_slots
from training.loop.corrections import Corrections, clicks_at_once
from training.loop.samples import sample_rng
from training.simulated_annotator import EXTRA, MISSED, sampled_click


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def target():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 20:60] = 1
    mask[50:, :] = 255
    return mask


def present(points):
    slots = len(points) // 2
    return points[:slots][points[:slots, 2] >= 0], points[slots:][points[slots:, 2] >= 0]


def test_first_clicks_are_where_they_belong(target):
    others = np.zeros(target.shape, bool)
    inner = binary_erosion(target == 1, np.ones((3, 3)), iterations=3)
    for seed in range(50):
        positive, negative = present(first_clicks(target, others, 24, PointsConfig(erode=1.0), rng(seed)))
        assert len(positive) >= 1
        assert inner[tuple(positive[:, :2].astype(int).T)].all()
        assert (target[tuple(negative[:, :2].astype(int).T)] == 0).all()
        order = np.concatenate([positive[:, 2], negative[:, 2]])
        assert sorted(order) == list(range(len(order)))


def test_negative_clicks_come_from_other_objects_and_the_border_as_asked(target):
    others = np.zeros(target.shape, bool)
    others[0:5, 70:80] = True
    _, on_others = present(first_clicks(target, others, 24, PointsConfig(negatives=(0, 1, 0), gamma=0.99), rng(3)))
    assert len(on_others)
    assert others[tuple(on_others[:, :2].astype(int).T)].all()
    _, on_border = present(first_clicks(target, others, 24, PointsConfig(negatives=(0, 0, 1), gamma=0.99), rng(3)))
    rounds = math.ceil(0.1 * math.sqrt((target == 1).sum()))  # 3.46
    border = binary_dilation(target == 1, np.ones((3, 3)), iterations=rounds) & (target == 0)
    assert border[tuple(on_border[:, :2].astype(int).T)].all()
    outermost = border & ~binary_dilation(target == 1, np.ones((3, 3)), iterations=rounds - 1)
    clicked = [
        tuple(click[:2].astype(int))
        for seed in range(40)
        for click in present(first_clicks(target, others, 24, PointsConfig(negatives=(0, 0, 1)), rng(seed)))[1]
    ]
    assert any(outermost[click] for click in clicked)


def test_the_number_of_clicks_is_geometric():
    target = np.ones((30, 30), np.uint8)
    target[:10] = 0
    config = PointsConfig(max_points=24, gamma=0.8)
    counts = np.array(
        [[len(k) for k in present(first_clicks(target, target > 9, 24, config, rng(s)))] for s in range(3000)]
    )
    weights = 0.8 ** np.arange(24)
    expected = (np.arange(1, 25) * weights).sum() / weights.sum()
    assert counts[:, 0].mean() == pytest.approx(expected, abs=0.3)
    assert counts[:, 0].min() == 1
    assert counts[:, 1].min() == 0
    ratio = (counts[:, 0] == 2).sum() / (counts[:, 0] == 1).sum()
    assert ratio == pytest.approx(0.8, abs=0.12)


def test_the_first_click_can_be_the_deepest_point(target):
    points = first_clicks(target, np.zeros(target.shape, bool), 24, PointsConfig(centre_first=1.0), rng())
    depth = distance_transform_edt(target == 1)
    assert depth[int(points[0, 0]), int(points[0, 1])] == depth.max()


def test_without_an_object_there_are_only_negative_clicks():
    blank = np.zeros((20, 20), np.uint8)
    positive, _ = present(first_clicks(blank, blank > 0, 24, PointsConfig(), rng()))
    assert not len(positive)


def square(top, left, side, size=(60, 80)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def published(objects, seed, others=False, occupied=None, **config):
    target = np.any(objects, axis=0).astype(np.uint8) if objects else np.zeros((60, 80), np.uint8)
    there = target > 0 if occupied is None else occupied | (target > 0)
    points = published_clicks(target, objects, there, others, 27, PointsConfig(**config), rng(seed))
    assert sorted(points[points[:, 2] >= 0, 2]) == list(range((points[:, 2] >= 0).sum()))
    return [clicks[:, :2].astype(int) for clicks in present(points)]


def inside(mask, clicks):
    return mask[clicks[:, 0], clicks[:, 1]]


def test_each_of_two_merged_objects_gets_a_click_as_published():
    small, large = square(5, 5, 6), square(10, 30, 40)
    counts, on_small = [], []
    for seed in range(2000):
        positive, _ = published([small, large], seed)
        assert inside(small, positive[:1]).all()
        assert inside(large, positive[1:2]).all()
        assert inside(small | large, positive).all()
        counts.append(len(positive))
        on_small += inside(small, positive[2:]).tolist()
    further = np.arange(25)
    weights = 0.8**further
    assert np.mean(counts) == pytest.approx(2 + (further * weights).sum() / weights.sum(), abs=0.3)
    assert np.mean(on_small) == pytest.approx(0.5, abs=0.03)  # by object, not by area
    assert {len(published([small, large], seed, max_points=2)[0]) for seed in range(50)} == {2}


def test_one_object_gets_one_to_24_clicks_as_published():
    counts = np.array([[len(kind) for kind in published([square(10, 30, 30)], seed)] for seed in range(2000)])
    weights = 0.8 ** np.arange(25)
    assert counts[:, 0].mean() == pytest.approx(1 + (np.arange(24) * weights[:24]).sum() / weights[:24].sum(), abs=0.3)
    assert counts[:, 1].mean() == pytest.approx((np.arange(25) * weights).sum() / weights.sum(), abs=0.3)
    assert (counts.min(axis=0) == [1, 0]).all()


@pytest.mark.parametrize("side", [4, 10, 31, 40])
def test_the_published_border_has_no_least_width(side):
    mask = square(10, 20, side)
    border = binary_dilation(mask, np.ones((3, 3)), iterations=math.ceil(0.1 * side)) & ~mask
    met = np.zeros(mask.shape, bool)
    for seed in range(300):
        _, negative = published([mask], seed, negatives=(0, 0, 1), gamma=0.99)
        met[negative[:, 0], negative[:, 1]] = True
    assert not (met & ~border).any()
    assert met.sum() > 0.95 * border.sum()


def test_published_clicks_keep_off_the_edge_where_over_ten_pixels_are_left():
    for side, kept in ((10, True), (9, False)):  # 16 and 9 pixels are left
        mask = square(20, 20, side)
        inner = binary_erosion(mask, np.ones((3, 3)), iterations=3)
        clicks = np.concatenate([published([mask], seed, erode=1.0)[0] for seed in range(60)])
        assert inside(inner, clicks).all() == kept
        assert inside(mask, clicks).all()
    mask = square(10, 10, 40)
    inner = binary_erosion(mask, np.ones((3, 3)), iterations=3)
    at_the_edge = np.mean(~inside(inner, np.concatenate([published([mask], seed)[0] for seed in range(1500)])))
    assert at_the_edge == pytest.approx(0.1 * (1 - 34**2 / 40**2), abs=0.012)  # one mask in ten is whole


def test_published_negative_clicks_on_other_objects():
    mask, other = square(10, 10, 20), square(35, 50, 20)
    on_others = {"negatives": (0, 1, 0), "occupied": other}
    for seed in range(40):
        assert inside(other, published([mask], seed, others=True, **on_others)[1]).all()
        assert not inside(mask, published([mask], seed, **on_others)[1]).any()
    anywhere = np.concatenate([published([mask], seed, **on_others)[1] for seed in range(40)])
    assert not inside(other, anywhere).all()  # what there is beside the target is too small to be an object
    none = {"negatives": (0, 1, 0), "occupied": np.zeros((60, 80), bool)}
    assert not sum(len(published([mask], seed, others=True, **none)[1]) for seed in range(40))
    empty = [published([], seed, occupied=other) for seed in range(40)]
    assert not sum(len(positive) for positive, _ in empty)
    negative = np.concatenate([negative for _, negative in empty])
    assert len(negative) > 60
    assert not inside(other, negative).any()


def wrong_map(mask, target):
    """(H, W) uint8, by definition."""
    return np.where((target == 1) & ~mask, MISSED, np.where((target == 0) & mask, EXTRA, 0)).astype(np.uint8)


def test_a_correction_comes_from_the_inner_half_of_the_larger_error(target):
    prediction = np.zeros(target.shape, bool)
    prediction[45:, :] = True  # wrong on 5 rows of background; the rest of it is ignored
    missed = distance_transform_edt(np.pad(target == 1, 1))[1:-1, 1:-1]
    for seed in range(30):
        row, column, positive = sampled_click(wrong_map(prediction, target), rng(seed))
        assert positive
        assert missed[row, column] > missed.max() / 2 - 0.5
    found = (target == 1).copy()
    found[0:10, 0:10] = True
    row, column, positive = sampled_click(wrong_map(found, target), rng())
    assert not positive
    assert row < 10
    assert column < 10
    assert sampled_click(wrong_map(target == 1, target), rng()) is None


def test_depths_within_the_box_are_those_of_the_whole_map(target):
    """What the box leaves out changes no click: drawn as the definition has it, from OpenCV's distances everywhere."""
    for seed in range(20):
        guess = gaussian_filter((target == 1) + rng(seed).normal(0, 1.5, target.shape), 3) > 0.5
        wrong = wrong_map(guess, target)
        depths = [
            cv2.distanceTransform(np.pad((wrong == kind).astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
            for kind in (MISSED, EXTRA)
        ]
        positive = depths[0].max() > depths[1].max()
        depth = depths[0] if positive else depths[1]
        inner = np.argwhere(depth > depth.max() / 2)
        assert sampled_click(wrong, rng(seed)) == (*inner[rng(seed).integers(len(inner))], positive)


def test_the_clicks_of_a_batch_do_not_depend_on_threads(target):
    targets = torch.from_numpy(np.stack([target] * 7)).view(torch.int8)[:, None]
    masks = torch.from_numpy(rng(1).random((7, 1, *target.shape)) > 0.4)
    masks[3] = targets[3] == 1  # nothing is wrong
    drawn = []
    for threads in (1, 2, 5):
        points = np.full((7, 8, 3), -1.0, np.float32)
        Corrections(threads)(points, masks, targets, range(20, 27), seed=5, stream=2)
        drawn.append(points)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    for i, points in enumerate(drawn[0]):
        click = sampled_click(wrong_map(masks[i, 0].numpy(), target), sample_rng(5, 20 + i, 2))
        used = points[points[:, 2] >= 0]
        assert len(used) == (i != 3)
        if click:
            assert tuple(used[0, :2]) == click[:2]


def test_clicks_go_into_free_slots_in_order_and_are_dropped_when_there_is_none():
    points = np.full((4, 3), -1.0, np.float32)
    for click in ((1, 2, True), (3, 4, False), (5, 6, True), (7, 8, True)):
        add_click(points, click)
    np.testing.assert_array_equal(points, [[1, 2, 0], [5, 6, 2], [3, 4, 1], [-1, -1, -1]])


def test_slots_that_no_sample_uses_are_left_out():
    points = np.full((2, 10, 3), -1.0, np.float32)
    assert used_slots(points).shape == (2, 2, 3)
    points[0, 0] = (1, 2, 0)
    points[1, 5:8] = (3, 4, 1)
    used = used_slots(points)
    assert used.shape == (2, 6, 3)
    np.testing.assert_array_equal(used[0, :, 2], [0, -1, -1, -1, -1, -1])
    np.testing.assert_array_equal(used[1, :, 2], [-1, -1, -1, 1, 1, 1])


def wrong_maps():
    """(5, 64, 96) uint8 blots of both kinds, of one kind, none, and all wrong to the borders."""
    maps = []
    for seed in range(3):
        field = gaussian_filter(rng(seed).normal(size=(64, 96)), 4)
        maps.append(np.where(field > 0.03, MISSED, np.where(field < -0.04, EXTRA, 0)))
    maps[2][maps[2] == EXTRA] = 0
    return np.stack([*maps, np.zeros((64, 96)), np.full((64, 96), EXTRA)]).astype(np.uint8)


@pytest.mark.parametrize("at_once", [2**28, 8 * 96 * 100])
def test_clicks_of_a_whole_batch_are_those_of_exact_distances(monkeypatch, at_once):
    """As drawn one by one from SciPy's distances, whatever is computed at a time."""
    monkeypatch.setattr("training.loop.corrections._BYTES_AT_ONCE", at_once)
    maps, draws = wrong_maps(), rng(5).random((5, 2))
    for anywhere in (0.0, 1.0):
        clicks = clicks_at_once(torch.from_numpy(maps), draws, anywhere)
        assert clicks[3] is None
        for wrong, click, (_, draw) in zip(maps, clicks, draws, strict=True):
            if not click:
                continue
            depths = [distance_transform_edt(np.pad(wrong == kind, 1))[1:-1, 1:-1] for kind in (MISSED, EXTRA)]
            positive = depths[0].max() > depths[1].max()
            depth = depths[0] if positive else depths[1]
            inner = np.argwhere(depth > 0) if anywhere else np.argwhere(depth**2 * 4 > depth.max() ** 2 + 1e-6)
            assert click == (*inner[int(draw * len(inner))], positive)


def test_clicks_of_a_whole_batch_stay_what_they_are():
    """The golden clicks of a GPU, which no version may move."""
    clicks = clicks_at_once(torch.from_numpy(wrong_maps()), rng(7).random((5, 2)), 0.3)
    assert clicks == [(27, 25, False), (37, 12, False), (55, 73, True), None, (30, 78, False)]


def test_a_correcting_click_can_lie_anywhere_in_the_error(target):
    wrong = wrong_map(np.zeros(target.shape, bool), target)
    depth = distance_transform_edt(np.pad(wrong == MISSED, 1))[1:-1, 1:-1]
    clicked = np.array([depth[sampled_click(wrong, rng(seed), 0.5)[:2]] for seed in range(200)])
    assert clicked.min() == 1
    assert 0.15 < (clicked <= depth.max() / 2).mean() < 0.5


def test_positive_clicks_can_lie_at_the_edge(target):
    others, edge = np.zeros(target.shape, bool), (target == 1) & ~binary_erosion(target == 1, np.ones((3, 3)))
    share = []
    for seed in range(200):
        positive, _ = present(first_clicks(target, others, 24, PointsConfig(edge=0.4, erode=1.0), rng(seed)))
        share += [edge[tuple(click)] for click in positive[:, :2].astype(int)]
    assert np.mean(share) == pytest.approx(0.4, abs=0.06)
