import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from icmformer.runs import MaskRuns

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans())


@settings(max_examples=300, deadline=None)
@given(MASKS, st.integers(0, 3), st.integers(0, 3))
def test_runs_hold_the_mask(mask, top, left):
    runs = MaskRuns.of(mask)
    np.testing.assert_array_equal(runs.to_mask(), mask)
    assert bool(runs) == mask.any()
    assert runs.area == mask.sum()
    assert runs.share == pytest.approx(mask.mean())
    rows, columns = np.nonzero(mask)
    if len(rows):
        assert runs.box == (rows.min(), rows.max(), columns.min(), columns.max())
        np.testing.assert_array_equal(runs.crop(), mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    else:
        assert runs.box is None
        assert runs.crop().shape == (0, 0)
        assert runs == MaskRuns.none(mask.shape)
    height, width = mask.shape
    larger = np.zeros((height + 4, width + 5), bool)
    larger[top : top + height, left : left + width] = mask
    assert MaskRuns.of(mask, larger.shape, top, left) == MaskRuns.of(larger)


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_the_image_as_one_line_has_the_runs_that_pycocotools_counts(mask):
    """Columns of the transposed mask, one after the other, are rows of the mask."""
    starts, stops = MaskRuns.of(mask).joined
    places = np.stack((starts, stops), axis=1).ravel()
    counts = np.diff(places, prepend=0, append=mask.size)
    packed = coco_mask.frPyObjects({"size": [mask.shape[1], mask.shape[0]], "counts": counts.tolist()}, *mask.T.shape)
    np.testing.assert_array_equal(coco_mask.decode(packed).T, mask)
    assert (counts[1:-1] > 0).all()  # none is split


def test_equal_masks_have_equal_runs_and_others_not():
    mask = np.random.default_rng(0).random((20, 30)) < 0.4
    other = mask.copy()
    other[3, 4] ^= True
    assert MaskRuns.of(mask) == MaskRuns.of(mask.copy())
    assert MaskRuns.of(mask) != MaskRuns.of(other)
    assert MaskRuns.of(mask) != MaskRuns.of(mask, (21, 30))
    assert MaskRuns.of(mask) != mask.tolist()
