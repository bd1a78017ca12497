import numpy as np
import pytest
import torch
import torch.nn.functional as F

from icmformer.errors import ConfigError
from icmformer.inference.roi import (
    ROI,
    PixelClick,
    ZoomSettings,
    bounding_box,
    choose_roi,
    crop,
    expand,
    keeps,
    map_clicks,
    mirror_points,
    object_roi,
)

SIZE, RATIO, LEAST = (1000, 1000), 1.4, 200


@pytest.mark.parametrize("size", [(448, 448), (224, 300), (37, 5), (1, 1)])
@pytest.mark.parametrize("roi", [ROI(0, 119, 0, 179), ROI(10, 90, 33, 160), ROI(7, 7, 3, 100), ROI(119, 119, 179, 179)])
def test_a_crop_is_what_torch_resizes(size, roi):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 180, 3), dtype=np.uint8)
    mask = rng.random((120, 180), np.float32)
    for plane, tolerance in ((image, 2e-3), (mask, 1e-5)):
        part = torch.from_numpy(plane[roi.slices].astype(np.float32).reshape(roi.height, roi.width, -1))
        expected = F.interpolate(part.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=True)[0]
        expected = expected.permute(1, 2, 0).numpy().reshape(*size, *plane.shape[2:])
        np.testing.assert_allclose(crop(plane, roi, size), expected, rtol=0, atol=tolerance)


def test_a_crop_at_its_own_size_changes_nothing():
    image = np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop(image, ROI(0, 49, 0, 59), (50, 60)), image)


def test_an_roi_is_worked_out_by_hand():
    # rows 100..299: centre 199.5, side 1.4 * 200 = 280, ends 59.5 and 339.5: half to even gives 60 and 340
    assert expand(ROI(100, 299, 400, 459), SIZE, RATIO, LEAST) == (60, 340, 330, 530)
    # columns 400..459: side max(84, 200), ends 329.5 and 529.5: 330 and 530
    assert expand(ROI(10, 20, 980, 999), SIZE, RATIO, LEAST) == (0, 115, 890, 999)
    # the usual least side is 201 pixels: centre 15, ends -85 and 115


def test_positive_clicks_widen_the_roi_and_negative_ones_do_not():
    box = ROI(400, 599, 400, 599)
    alone = object_roi(box, [PixelClick(500, 500, True), PixelClick(10, 10, False)], SIZE, RATIO, LEAST)
    assert alone == expand(box, SIZE, RATIO, LEAST)
    wider = object_roi(box, [PixelClick(700, 390, True)], SIZE, RATIO, LEAST)
    assert wider == expand(ROI(400, 700, 390, 599), SIZE, RATIO, LEAST)


def test_an_empty_mask_has_no_box():
    assert bounding_box(np.zeros((9, 9), bool)) is None


def test_an_roi_stays_until_a_positive_click_leaves_it_or_the_overlap_is_under_one_half():
    old = ROI(100, 300, 100, 300)
    assert keeps(old, old, [PixelClick(100, 299, True)], 0.5)
    assert not keeps(old, old, [PixelClick(100, 300, True)], 0.5)  # the last column counts as outside
    assert not keeps(old, old, [PixelClick(99, 200, True)], 0.5)
    assert keeps(old, old, [PixelClick(5, 5, False)], 0.5)
    assert keeps(old, ROI(100, 300, 100, 200), [], 0.5)  # 101 of 201 columns
    assert not keeps(old, ROI(100, 300, 100, 199), [], 0.5)  # 100 of 201
    assert not keeps(old, ROI(100, 250, 100, 220), [], 0.5)  # 151 / 201 * 121 / 201 = 0.45


def test_the_roi_is_the_image_then_the_objects_then_what_was_kept():
    click, whole_image = PixelClick(450, 450, True), ROI(0, 999, 0, 999)
    box, around = ROI(400, 599, 400, 599), ROI(360, 640, 360, 640)
    published = ZoomSettings()
    assert choose_roi(None, None, [click], SIZE, published, LEAST) == whole_image
    assert choose_roi(box, whole_image, [click], SIZE, published, LEAST) == around
    assert choose_roi(box, ROI(350, 640, 350, 640), [click], SIZE, published, LEAST) == (350, 640, 350, 640)
    assert choose_roi(box, None, [click], SIZE, published, 400) == (300, 700, 300, 700)
    later = ZoomSettings(skip_clicks=1)
    assert choose_roi(box, None, [click], SIZE, later, LEAST) is None
    assert choose_roi(None, None, [click] * 2, SIZE, later, LEAST) is None  # nothing to zoom in on
    assert choose_roi(box, None, [click] * 2, SIZE, later, LEAST) == around


def test_clicks_map_unrounded_positive_ones_first():
    clicks = [PixelClick(10, 20, True), PixelClick(60, 5, False), PixelClick(30, 40, True)]
    points = map_clicks(clicks, ROI(10, 109, 20, 69), (448, 448))
    expected = [[0, 0, 0], [448 * 20 / 100, 448 * 20 / 50, 2], [448 * 50 / 100, 448 * -15 / 50, 1], [-1, -1, -1]]
    np.testing.assert_allclose(points[0].numpy(), expected, rtol=1e-6)


def test_mirrored_clicks_lie_on_the_mirrored_picture_and_absent_ones_stay_absent():
    points = torch.tensor([[[3.0, 10.25, 0], [-1, -1, -1], [5, 0, 1], [-1, -1, -1]]])
    mirrored = mirror_points(points, 100)
    np.testing.assert_array_equal(mirrored[0, :, 1].numpy(), [88.75, -1, 99, -1])
    np.testing.assert_array_equal(mirrored[0, :, 0].numpy(), points[0, :, 0].numpy())


def test_a_click_just_beyond_the_corner_is_mirrored_like_any_other():
    """Published code mirrors clicks before it pads the list, so only the padding counts as absent."""
    points = map_clicks([PixelClick(150, 150, True), PixelClick(99, 99, False)], ROI(100, 300, 100, 300), (448, 448))
    assert points[0, 1, 0] < 0
    assert points[0, 1, 1] < 0
    mirrored = mirror_points(points, 448)
    assert mirrored[0, 1, 1] == 447 - points[0, 1, 1]


def test_a_long_side_keeps_the_aspect():
    assert ZoomSettings(1, 400).input_size(ROI(0, 199, 0, 299)) == (267, 400)
    assert ZoomSettings(target_size=(448, 672)).input_size(ROI(0, 199, 0, 299)) == (448, 672)


@pytest.mark.parametrize(
    "bad", [{"target_size": 0}, {"target_size": (448, 448, 3)}, {"target_size": "448"}, {"skip_clicks": 0}]
)
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(ConfigError):
        ZoomSettings(**bad)
