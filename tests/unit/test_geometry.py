import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage import data
from skimage.measure import points_in_poly

from icmformer import CleanUp, Click, mask_to_polygons
from icmformer.errors import ConfigError

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def rasterise(polygons, shape):
    """A pixel is inside when its middle is, by the even-odd rule over all rings."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    middles = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    inside = np.zeros(len(middles), bool)
    for polygon in polygons:
        for ring in (polygon.exterior, *polygon.holes):
            inside ^= points_in_poly(middles, ring)
    return inside.reshape(shape)


@given(masks)
@settings(max_examples=200, deadline=None)
def test_exact_polygons_are_the_mask(mask):
    np.testing.assert_array_equal(rasterise(mask_to_polygons(mask), mask.shape), mask)


def test_a_ring_is_one_polygon_with_a_hole_and_only_corner_points():
    mask = np.zeros((20, 20), bool)
    mask[3:15, 4:16] = True
    mask[6:10, 7:12] = False
    (polygon,) = mask_to_polygons(mask)
    assert sorted(map(tuple, polygon.exterior)) == [(4, 3), (4, 15), (16, 3), (16, 15)]
    (hole,) = polygon.holes
    assert sorted(map(tuple, hole)) == [(7, 6), (7, 10), (12, 6), (12, 10)]


@pytest.mark.parametrize("budget", [4, 30, 100, 1000])
def test_a_budget_is_kept_and_more_points_are_closer(budget):
    mask = data.horse() == 0
    polygons = mask_to_polygons(mask, budget)
    assert 3 <= sum(p.points for p in polygons) <= budget
    drawn = rasterise(polygons, mask.shape)
    iou = (drawn & mask).sum() / (drawn | mask).sum()
    assert iou > {4: 0.3, 30: 0.85, 100: 0.95, 1000: 0.98}[budget]


@given(masks, st.integers(4, 40))
@settings(max_examples=200, deadline=None)
def test_no_mask_breaks_a_budget(mask, budget):
    polygons = mask_to_polygons(mask, budget)
    assert sum(p.points for p in polygons) <= budget
    assert bool(polygons) == bool(mask.any())


def test_largest_polygon_comes_first_and_an_empty_mask_has_none():
    mask = np.zeros((20, 20), bool)
    mask[1, 1] = mask[5:15, 5:15] = True
    assert [len(p.exterior) for p in mask_to_polygons(mask)] == [4, 4]
    assert mask_to_polygons(mask)[0].exterior.min() == 5
    assert mask_to_polygons(np.zeros((5, 5), bool)) == []
    with pytest.raises(ConfigError):
        mask_to_polygons(mask, 3)


@given(masks, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_small_parts_and_holes_go_as_scipy_counts_them(mask, size):
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    areas = ndimage.sum(mask, parts, range(count + 1))
    np.testing.assert_array_equal(CleanUp(min_area=size)(mask), mask & (areas >= size)[parts])
    gaps, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
    holes = ndimage.sum(np.ones_like(gaps), gaps, range(count + 1)) <= size
    holes[[0, gaps[0, 0]]] = False
    np.testing.assert_array_equal(CleanUp(fill_holes=size)(mask), mask | holes[gaps][1:-1, 1:-1])


def test_clicked_parts_stay_whatever_their_size():
    mask = np.zeros((30, 30), bool)
    mask[2:12, 2:12] = mask[20:22, 20:22] = True
    on_small, on_nothing = Click(20.5, 21.5), Click(28, 5)
    kept = CleanUp(keep_clicked=True)(mask, [on_small])
    assert kept.sum() == 4
    assert CleanUp(min_area=50)(mask, [on_small]).sum() == 104
    assert CleanUp(min_area=50)(mask, [Click(20.5, 21.5, positive=False)]).sum() == 100
    assert CleanUp(keep_clicked=True)(mask, [on_nothing]).sum() == 104


def test_a_hole_with_a_negative_click_stays():
    mask = np.zeros((30, 30), bool)
    mask[2:28, 2:28] = True
    mask[5:8, 5:8] = mask[15:18, 15:18] = False
    filled = CleanUp(fill_holes=10**6)(mask, [Click(6, 6, positive=False), Click(16, 16, positive=True)])
    assert not filled[5:8, 5:8].any()
    assert filled[15:18, 15:18].all()
    assert not filled[0].any()
