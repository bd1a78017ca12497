import numpy as np
import pytest
from skimage.draw import ellipse

from icmformer import Box
from icmformer.inference.prompts import BoxStart
from icmformer.inference.roi import ROI, bounding_box


@pytest.mark.parametrize(
    ("top", "left", "height", "width"), [(3, 5, 21, 33), (0, 0, 60, 80), (10, 70, 7, 10), (59, 0, 1, 1)]
)
def test_a_box_starts_from_its_ellipse_or_from_all_of_it(top, left, height, width):
    size, box = (60, 80), Box(left, top, left + width, top + height)
    roi = ROI(top, top + height - 1, left, left + width - 1)
    whole = np.zeros(size, np.float32)
    whole[roi.slices] = 1
    oval = np.zeros(size, np.float32)
    oval[ellipse(top + (height - 1) / 2, left + (width - 1) / 2, height / 2, width / 2, shape=size)] = 1
    for guess, expected in (("box", whole), ("ellipse", oval), ("none", np.zeros(size))):
        prediction, clicks = BoxStart(guess)(box, None, *size)
        found = prediction.map
        # skimage leaves out the very edge of the ellipse
        edge = guess == "ellipse" and np.abs(found.full() - expected).sum() <= 4
        assert edge or np.array_equal(found.full(), expected)
        np.testing.assert_array_equal(found.over(0.5).to_mask(), found.full() > 0.5)
        assert found.extent(0.5) == bounding_box(found.full() > 0.5)
        rows, columns = np.array([0, top, 59]), np.array([left, 79])
        np.testing.assert_array_equal(found.pick(rows, columns), found.full()[rows][:, columns])
        assert clicks == ((top + (height - 1) // 2, left + (width - 1) // 2, True),)


def test_of_a_mask_what_lies_in_the_box_is_the_start():
    mask = np.zeros((60, 80), np.float32)
    mask[20:40, 10:70] = 0.8
    prediction, _ = BoxStart("ellipse")(Box(5, 5, 40, 30), mask, 60, 80)
    expected = np.zeros((60, 80), np.float32)
    expected[20:30, 10:40] = 0.8
    np.testing.assert_array_equal(prediction.map.full(), expected)
    elsewhere, _ = BoxStart("ellipse")(Box(5, 45, 40, 59), mask, 60, 80)
    assert elsewhere.map.full().max() == 1  # nothing of it is there
