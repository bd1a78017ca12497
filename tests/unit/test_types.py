import pytest

from icmformer import Box, Click
from icmformer.errors import PromptError


@pytest.mark.parametrize(
    ("x", "y", "pixel"),
    [
        (0, 0, (0, 0)),
        (0.5, 0.5, (0, 0)),
        (0.999, 1.0, (1, 0)),
        (19.5, 9.5, (9, 19)),
        (20, 10, (9, 19)),
        (20, 0, (0, 19)),
    ],
)
def test_a_click_is_on_the_pixel_under_it(x, y, pixel):
    assert Click(x, y).pixel(height=10, width=20) == pixel


@pytest.mark.parametrize(("x", "y"), [(-0.1, 5), (5, -1e-9), (20.01, 5), (5, 10.5)])
def test_a_click_outside_says_so(x, y):
    with pytest.raises(PromptError, match="20 x 10"):
        Click(x, y).pixel(height=10, width=20)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_coordinates_must_be_finite(value):
    with pytest.raises(PromptError, match="finite"):
        Click(value, 1)
    with pytest.raises(PromptError, match="finite"):
        Box(0, 0, value, 5)


def test_a_box_takes_corners_in_any_order():
    assert Box(8, 9, 2, 3) == Box(2, 3, 8, 9) == Box(2, 9, 8, 3)


def test_a_box_covers_the_pixels_it_touches():
    assert Box(2.2, 3.7, 8.0, 9.1).pixels(height=50, width=50) == (3, 9, 2, 7)
    assert Box(-10, -10, 500, 500).pixels(height=40, width=50) == (0, 39, 0, 49)


def test_a_box_without_area_or_outside_is_refused():
    with pytest.raises(PromptError, match="area"):
        Box(3, 3, 3, 9)
    with pytest.raises(PromptError, match="outside"):
        Box(60, 0, 70, 10).pixels(height=50, width=50)
