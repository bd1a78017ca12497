import numpy as np
import pytest

from training.evaluation.noc import area_under_curve, click_count, mean_iou, reached


def test_failures_count_success_at_the_very_last_click_as_published():
    ious = [[0.5, 0.95], [0.1] * 20, [0.1] * 19 + [0.95]]
    counted = click_count(ious, 0.9, 20)
    assert counted.noc == pytest.approx((2 + 20 + 20) / 3)
    assert counted.failures == 2
    assert counted.never == 1


def test_an_object_has_reached_an_iou_once_it_was_there():
    assert reached([[0.5, 0.95, 0.3], [0.1] * 4, [0.92]], 0.9, 4) == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])


def test_ious_are_compared_in_single_precision():
    assert click_count([[0.9 - 1e-9, 0.95]], 0.9, 20).noc == 1  # the same float32 as 0.9
    assert click_count([[0.9 - 1e-6, 0.95]], 0.9, 20).noc == 2


def test_a_play_that_ended_keeps_its_last_iou():
    np.testing.assert_allclose(mean_iou([[0.5, 1.0], [0.2, 0.4, 0.6]], 4), [0.35, 0.7, 0.8, 0.8])


def test_the_area_is_one_for_a_perfect_curve_and_half_for_a_straight_rise():
    assert area_under_curve([1.0] * 20) == 1
    assert area_under_curve(np.linspace(0, 1, 20)) == pytest.approx(0.5)
