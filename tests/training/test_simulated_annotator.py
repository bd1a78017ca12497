import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from training.simulated_annotator import SimulatedAnnotator


def test_clicks_are_at_the_deepest_error_by_another_distance_transform():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = (rng.random((40, 50)) < 0.5).astype(np.int32)
        truth[5:25, 10:30] = 1
        mask = rng.random((40, 50)) < 0.2
        missed = distance_transform_edt(np.pad((truth == 1) & ~mask, 1))[1:-1, 1:-1]
        extra = distance_transform_edt(np.pad((truth == 0) & mask, 1))[1:-1, 1:-1]
        positive = missed.max() > extra.max()
        depth = missed if positive else extra
        click = SimulatedAnnotator(truth).next_click(mask)
        assert click.positive == positive
        np.testing.assert_allclose(depth[click.row, click.column], depth.max(), rtol=1e-6)


def test_a_tie_goes_to_the_background_and_to_the_first_in_reading_order():
    truth = np.zeros((20, 20), np.int32)
    truth[2:5, 2:5] = 1
    mask = np.zeros((20, 20), bool)
    mask[10:13, 3:6] = mask[10:13, 10:13] = True
    assert SimulatedAnnotator(truth).next_click(mask) == (11, 4, False)


def test_a_pixel_is_clicked_once():
    truth = np.zeros((9, 9), np.int32)
    truth[3:6, 3:6] = 1
    annotator = SimulatedAnnotator(truth)
    empty = np.zeros((9, 9), bool)
    clicks = [annotator.next_click(empty) for _ in range(9)]
    assert clicks[0] == (4, 4, True)
    assert len(set(clicks)) == 9
    assert annotator.next_click(empty) is None


def test_ignored_pixels_neither_attract_clicks_nor_count():
    truth = np.zeros((20, 20), np.int32)
    truth[5:10, 5:10] = 1
    truth[12:20, :] = -1
    mask = np.zeros((20, 20), bool)
    mask[12:20, :] = True
    mask[5:10, 5:10] = True
    annotator = SimulatedAnnotator(truth)
    assert annotator.iou(mask) == 1.0
    assert annotator.next_click(mask) is None
    mask[5:10, 5:7] = False
    assert annotator.iou(mask) == 15 / 25


def test_clicks_do_not_depend_on_opencvs_threads():
    """Nor on ties that its last bits decide: of equally deep points the first in row-major order."""
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (90, 60), 30, 1, -1)
    before, told = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 3):
            cv2.setNumThreads(threads)
            annotator = SimulatedAnnotator(mask)
            told.append([annotator.next_click(np.zeros(mask.shape, bool)) for _ in range(12)])
    finally:
        cv2.setNumThreads(before)
    assert told[0] == told[1] == told[2]
    depth = np.rint(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] ** 2)
    for row, column, positive in told[0]:
        assert positive
        assert (row, column) == np.unravel_index(depth.argmax(), depth.shape)
        depth[row, column] = 0
