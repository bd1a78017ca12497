"""Wrong arguments to the package's own functions: typed errors, whatever is given; and what may be compared is."""

import numpy as np
import pytest
from skimage import data

from icmformer import (
    Box,
    Caches,
    CleanUp,
    Click,
    Engine,
    LoadedImage,
    MaskResult,
    Polygon,
    decode_image,
    mask_to_polygons,
)
from icmformer.errors import ConfigError, DeviceError, ImageError, PromptError, WeightsError
from tests.engines import engine

CAT = LoadedImage.from_array(data.chelsea())
CLICK = Click(170.5, 120.5)
ODD = (None, 3, 2.5, "ab", b"ab", {}, [[1, 2]], [(3, 4)], [None], {"x": 1}, object(), np.ones((2, 2)), [CLICK, (3, 4)])


def kind(given):
    return type(given).__name__


@pytest.fixture(scope="module")
def starter():
    return engine("fast", of="starter")


@pytest.mark.parametrize("clicks", [*ODD, CLICK], ids=kind)
def test_clicks(starter, clicks):
    with pytest.raises(PromptError):
        starter.segment(CAT, clicks)


@pytest.mark.parametrize(
    "box",
    [*(o for o in ODD if o is not None), (1, 2, 3), (10**400, 1, 2, 3), "abcd", (1, 2, None, 4)],
    ids=kind,
)
def test_boxes(starter, box):
    with pytest.raises(PromptError):
        starter.segment(CAT, [CLICK], box)


@pytest.mark.parametrize("mask", [*(o for o in ODD if o is not None), np.full((300, 451), None)], ids=kind)
def test_previous_masks(starter, mask):
    with pytest.raises(PromptError):
        starter.segment(CAT, [CLICK], None, mask)


@pytest.mark.parametrize(
    "image",
    [*ODD, CAT.pixels[..., 0], CAT.pixels.astype(float), CAT.pixels[:0]],
    ids=kind,
)
def test_images(starter, image):
    for call in (starter.segment, lambda image, *_: starter.prefetch(image), lambda i, *_: LoadedImage.from_array(i)):
        with pytest.raises(ImageError):
            call(image, [CLICK])


@pytest.mark.parametrize("content", [o for o in ODD if not isinstance(o, bytes)], ids=kind)
def test_image_files(content):
    for call in (decode_image, LoadedImage.from_bytes):
        with pytest.raises(ImageError):
            call(content)


@pytest.mark.parametrize("clean_up", [o for o in ODD if o is not None], ids=kind)
def test_what_tidies_a_mask(starter, clean_up):
    with pytest.raises(ConfigError):
        starter.segment(CAT, [CLICK], clean_up=clean_up)


@pytest.mark.parametrize(
    "value",
    [None, "3", 3j, [3], np.ones(2), float("nan"), float("inf"), 10**400, object()],
    ids=kind,
)
def test_coordinates(value):
    for call in (lambda v: Click(v, 3), lambda v: Click(3, v), lambda v: Box(v, 1, 2, 3), lambda v: Box(1, 2, 3, v)):
        with pytest.raises(PromptError):
            call(value)


@pytest.mark.parametrize("positive", [None, "yes", 2, 0.0, [True], np.ones(2, bool)], ids=kind)
def test_kinds_of_clicks(positive):
    with pytest.raises(PromptError, match="True or False"):
        Click(3, 4, positive)


@pytest.mark.parametrize("odd", ODD, ids=kind)
def test_everything_else(starter, odd):
    for right, call in (
        (PromptError, lambda: starter.segment(CAT, [CLICK], ordered=odd)),
        (WeightsError, lambda: Engine(odd)),
        (ImageError, lambda: LoadedImage.from_pil(odd)),
        (ImageError, lambda: mask_to_polygons(odd)),
        (ConfigError, lambda: decode_image(b"", shown_by=odd)),
        *(() if odd is None else ((WeightsError, lambda: starter.beside(weights=odd)),)),
        *(() if odd is None else ((ConfigError, lambda: starter.beside(caches=odd)),)),
        *(() if isinstance(odd, int) else ((ConfigError, lambda: CleanUp(fill_holes=odd)),)),
    ):
        with pytest.raises(right):
            call()


def test_numbers_of_numpys_are_numbers(starter):
    made = Click(np.float32(170.5), np.float64(120.5), np.bool_(True))
    assert made == CLICK == Click(170.5, 120.5, 1)  # as other tools have it
    assert starter.segment(CAT, [made]) == starter.segment(CAT, [CLICK])


@pytest.mark.parametrize("name", [None, 3, 2.5, b"starter", [], {}, object()], ids=kind)
def test_weights_devices_profiles_and_runtimes(name):
    with pytest.raises(WeightsError):
        Engine.from_weights(name)
    for option, right in (("device", DeviceError), ("profile", ConfigError), ("runtime", ConfigError)):
        if name is None:  # what the settings say
            continue
        with pytest.raises(right):
            Engine.from_weights("starter", **{option: name})


def test_results_and_images_can_be_compared_and_kept_in_sets(starter):
    one, other = (starter.segment(CAT, [CLICK]) for _ in range(2))
    third = engine("fast", Caches(), of="starter").segment(CAT, [Click(60.5, 60.5)])
    assert {one, other, third} == {one, third}
    assert isinstance(one, MaskResult)
    assert one != 3
    assert {CAT, LoadedImage.from_array(data.chelsea())} == {CAT}
    ring = Polygon(np.zeros((3, 2)))
    assert {ring} == {ring} != {Polygon(np.zeros((3, 2)))}
