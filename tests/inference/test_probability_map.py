import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from icmformer.inference.probability_map import FullMap, ResizedMap
from icmformer.inference.roi import ROI, bounding_box, crop, crop_picked
from icmformer.runs import MaskRuns


def blob(side, seed):
    """Smooth probabilities with values on both sides of any threshold."""
    noise = np.random.default_rng(seed).random((side, side)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), side / 12)
    return (smooth - smooth.min()) / np.ptp(smooth)


CASES = [
    (blob(64, 0), ROI(10, 40, 20, 99), (60, 120)),
    (blob(64, 1), ROI(0, 899, 0, 1299), (900, 1300)),  # several strips
    (blob(32, 2), ROI(300, 1299, 5, 704), (1400, 800)),
    (blob(64, 3), ROI(7, 7, 3, 100), (8, 101)),
    (blob(64, 4), ROI(3, 12, 8, 9), (30, 30)),  # smaller than the patch
]


@pytest.mark.parametrize(("patch", "roi", "size"), CASES)
def test_the_full_map_is_what_torch_resizes_with_zeros_around(patch, roi, size):
    frame = ResizedMap(patch, roi, size).full()
    expected = F.interpolate(
        torch.from_numpy(patch)[None, None], (roi.height, roi.width), mode="bilinear", align_corners=True
    )[0, 0]
    np.testing.assert_allclose(frame[roi.slices], expected.numpy(), rtol=0, atol=2e-5)
    frame[roi.slices] = 0
    assert not frame.any()


@pytest.mark.parametrize(("patch", "roi", "size"), CASES)
@pytest.mark.parametrize("threshold", [0.2, 0.49, 0.5, 0.97, 1.0])
def test_parts_agree_with_the_full_map_to_the_last_bit(patch, roi, size, threshold):
    resized, full = ResizedMap(patch, roi, size), FullMap(ResizedMap(patch, roi, size).full())
    assert resized.over(threshold) == full.over(threshold) == MaskRuns.of(full.frame > threshold)
    assert resized.extent(threshold) == full.extent(threshold) == bounding_box(full.frame > threshold)
    rng = np.random.default_rng(5)
    rows, columns = np.sort(rng.integers(0, size[0], 40)), np.sort(rng.integers(0, size[1], 50))
    np.testing.assert_array_equal(resized.pick(rows, columns), full.frame[rows][:, columns])
    wider = ROI(max(roi.row_min - 5, 0), min(roi.row_max + 9, size[0] - 1), roi.column_min, roi.column_max)
    cut = crop_picked(resized.pick, wider, (48, 56))
    np.testing.assert_array_equal(cut, crop(full.frame, wider, (48, 56)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 15), st.integers(0, 15), st.floats(0.05, 0.95))
def test_a_lone_peak_is_found_wherever_it_lies(seed, row, column, threshold):
    patch = np.zeros((16, 16), np.float32)
    patch[row, column] = 1
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 400, 2)
    roi = ROI(3, int(3 + height), 5, int(5 + width))
    resized = ResizedMap(patch, roi, (height + 10, width + 10))
    expected = resized.full() > threshold
    assert resized.extent(threshold) == bounding_box(expected)
    np.testing.assert_array_equal(resized.over(threshold).to_mask(), expected)


def test_one_half_is_not_above_one_half():
    flat = np.full((9, 9), 0.5, np.float32)
    assert ResizedMap(flat, ROI(0, 99, 0, 99), (100, 100)).extent(0.5) is None
    assert FullMap(flat).extent(0.5) is None


PATCHES = {
    "noise": lambda rng, size: rng.random(size),
    "smooth": lambda rng, size: cv2.GaussianBlur(rng.random(size), (0, 0), 3),
    "zeros and ones": lambda rng, size: rng.random(size) > 0.6,
    "plateaus at the threshold": lambda rng, size: np.minimum(rng.random(size), 0.5),
    "flat to the last bits": lambda rng, size: 0.5 + 1e-7 * rng.integers(-12, 12, size),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_the_runs_are_those_of_every_pixel(kind):
    """Of patches and ROIs of any size, larger and smaller than each other; every pixel is compared."""
    rng = np.random.default_rng(list(PATCHES).index(kind))
    for _ in range(120):
        patch = np.asarray(PATCHES[kind](rng, rng.integers(1, 40, 2)), np.float32)
        height, width = map(int, rng.integers(1, 300, 2))
        resized = ResizedMap(patch, ROI(3, 2 + height, 5, 4 + width), (height + 9, width + 11))
        everything = resized.full()
        for threshold in (0.49, 0.5, 1.0, float(rng.random())):
            assert resized.over(threshold) == MaskRuns.of(everything > threshold), (patch.shape, height, width)
