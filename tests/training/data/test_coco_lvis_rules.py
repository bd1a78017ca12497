"""The rules that join LVIS with COCO, against hand-worked cases and a slow way to the same."""

import numpy as np
import pytest
from pycocotools import mask as rle
from skimage import draw

from tests.training.data.coco_lvis_sets import box
from training.data.coco_lvis.rules import Shape, combine, parents
from training.data.coco_lvis.writing import pack


def test_duplicates_of_lvis_go_and_near_ones_stay():
    first = box(10, 50, 10, 50)  # 1600
    same = box(10, 50, 10, 47)  # 1480 of 1600: IoU 0.925
    near = box(10, 50, 10, 43)  # 1320 of 1600: IoU 0.825, not over 0.85
    assert [o.mask.sum() for o in combine([first, same, near], [], [])] == [1600, 1320]
    holed = first.copy()
    holed[12:48, 20:30] = False  # 1240 of 1600: the box is the same, the mask is not
    assert len(combine([first, holed], [], [])) == 2


def test_things_that_match_an_lvis_instance_go():
    lvis = box(10, 50, 10, 50)
    at_seventy = box(10, 50, 10, 38)  # 1120 of 1600: exactly 0.7, which is no match
    over = box(10, 50, 10, 39)  # 0.725
    objects = combine([lvis], [at_seventy, over], [])
    assert [(o.source, int(o.mask.sum())) for o in objects] == [("lvis", 1600), ("coco", 1120)]
    twins = combine([], [lvis, lvis.copy()], [])  # things are only compared with LVIS
    assert len(twins) == 2


def test_small_things_and_small_stuff_go_and_stuff_lies_outside_all_instances():
    assert combine([box(0, 8, 0, 10)], [box(50, 58, 0, 9)], [])[0].mask.sum() == 80  # 80 stays, 72 goes
    assert len(combine([box(0, 8, 0, 10)], [box(50, 58, 0, 9)], [])) == 1
    sky = box(0, 30, 0, 31)
    objects = combine([box(0, 20, 0, 20)], [], [sky])  # 530 pixels are left of it
    assert objects[1].stuff
    np.testing.assert_array_equal(objects[1].mask, sky & ~box(0, 20, 0, 20))
    assert len(combine([box(0, 20, 0, 20)], [], [box(0, 30, 0, 30)])) == 1  # 500 are not over 500


def test_parts_belong_to_the_smallest_that_holds_them():
    person, shirt, button = box(0, 90, 0, 60), box(20, 60, 5, 55), box(30, 40, 20, 30)
    beside = box(50, 100, 50, 120)  # overlaps the person in a little
    assert parents([Shape(m) for m in (button, person, shirt, beside)]) == [2, None, 1, None]
    half = box(0, 40, 0, 75)  # 60 of 75 columns are the person's: exactly 0.8, which is no part
    assert parents([Shape(m) for m in (person, half)]) == [None, None]
    assert parents([Shape(person), Shape(person.copy())]) == [None, 0]  # of equals the earlier is larger


def slow(lvis, things, stuff):
    """The same rules, pixel sets and pycocotools' IoU instead of boxes and slices."""

    def iou(a, b):
        coded = [rle.encode(np.asfortranarray(m.astype(np.uint8))) for m in (a, b)]
        return rle.iou([coded[0]], [coded[1]], [0])[0, 0]

    def box_iou(a, b):
        corners = [rle.toBbox(rle.encode(np.asfortranarray(m.astype(np.uint8)))) for m in (a, b)]
        return rle.iou(np.array([corners[0]]), np.array([corners[1]]), [0])[0, 0]

    kept = []
    for mask in lvis:
        if mask.sum() >= 80 and not any(box_iou(mask, o) > 0.7 and iou(mask, o) > 0.85 for o in kept):
            kept.append(mask)
    own = list(kept)
    for mask in things:
        if mask.sum() >= 80 and not any(box_iou(mask, o) > 0.7 and iou(mask, o) > 0.7 for o in own):
            kept.append(mask)
    sets = [set(map(tuple, np.argwhere(m).tolist())) for m in kept]
    above = []
    for i, pixels in enumerate(sets):
        holders = [
            j
            for j, other in enumerate(sets)
            if (len(other), -j) > (len(pixels), -i) and len(pixels & other) / len(pixels) > 0.8
        ]
        above.append(min(holders, key=lambda j: (len(sets[j]), -j)) if holders else None)
    taken = set().union(*sets) if sets else set()
    rest = [set(map(tuple, np.argwhere(m).tolist())) - taken for m in stuff]
    return sets, above, [r for r in rest if len(r) > 500]


@pytest.mark.parametrize("seed", range(8))
def test_the_rules_agree_with_a_slow_way_to_the_same(seed):
    rng = np.random.default_rng(seed)

    def random_mask():
        mask = np.zeros((60, 80), bool)
        rows, columns = draw.ellipse(*(rng.random(2) * [60, 80]), *(4 + rng.random(2) * 25), shape=mask.shape)
        mask[rows, columns] = True
        return mask

    lvis = [random_mask() for _ in range(6)]
    lvis += [np.roll(m, rng.integers(0, 3), 1) for m in lvis[:3]]  # near duplicates
    things = [np.roll(m, rng.integers(0, 4), 0) for m in lvis[2:5]] + [random_mask() for _ in range(4)]
    stuff = [random_mask() for _ in range(3)]
    sets, above, rest = slow(lvis, things, stuff)
    objects = combine(lvis, things, stuff)
    found = [set(map(tuple, np.argwhere(o.mask).tolist())) for o in objects]
    assert found == sets + rest
    assert [o.parent for o in objects] == above + [None] * len(rest)
    assert [o.stuff for o in objects] == [False] * len(sets) + [True] * len(rest)


def test_overlapping_masks_come_out_of_their_layers_unchanged():
    rng = np.random.default_rng(3)
    masks = []
    for top, left in rng.integers(0, 90, (300, 2)):
        bottom, right = np.array([top, left]) + rng.integers(1, 40, 2)
        masks.append(box(top, bottom, left, right))
    drawn, places = pack(masks)
    layers = list(drawn)
    for mask, (layer, value) in zip(masks, places, strict=True):
        assert 0 < value < 255
        np.testing.assert_array_equal(layers[layer] == value, mask)
