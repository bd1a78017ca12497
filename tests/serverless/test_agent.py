"""The agent function under the driver of CVAT's own command line, in its worker process."""

from pathlib import Path

import numpy as np
import pytest
from cvat_cli._internal.agent import (
    RecoverableExecutor,
    _default_tracking_state_id_generator,
    _worker_init,
    _worker_job_get_function_spec,
    get_function_driver_class,
)
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.masks import decode_mask
from PIL import Image
from skimage import data

from icmformer import Box, Click
from serverless.cvat_agent import InteractiveFunction
from tests.conftest import ROOT

CAT = data.chelsea()
REMOTE = {"min_pos_points": 0, "min_neg_points": 0, "startswith_box": False, "startswith_box_optional": True}


class Media:
    """A frame, which CVAT's server would send."""

    loads = 0

    def load_image(self):
        Media.loads += 1
        return Image.fromarray(CAT)


class Sample:
    media = Media()


@pytest.fixture(scope="module")
def driver():
    loader = FunctionLoader(
        None, Path(ROOT / "serverless" / "cvat_agent.py"), {"device": "cpu", "profile": "fast", "box": True}
    )
    with RecoverableExecutor(_worker_init, [loader, _default_tracking_state_id_generator]) as executor:
        spec = executor.result(executor.submit(_worker_job_get_function_spec))
        made = get_function_driver_class(spec)(None, executor, spec)
        made._get_sample_from_ar_params = lambda params: (Sample, ())
        yield made


def ask(driver, positive=(), negative=(), box=(), frame=0, **other):
    params = {"type": "interact", "task": 1, "frame": frame, "pos_points": positive, "neg_points": negative}
    reply = driver.calculate_result_for_ar({**params, "obj_bbox": box, **other}, None)
    return reply["shapes"]


def mask_of(shapes, height=300, width=451):
    (shape,) = shapes
    assert shape["type"] == "mask"
    assert shape["attributes"] == []
    return decode_mask(shape["points"], image_width=width, image_height=height)


def test_without_boxes_the_page_has_no_switch_that_swallows_the_first_click():
    spec = InteractiveFunction(None, 10**8).spec
    made = get_function_driver_class(spec)(None, None, spec)
    assert made.get_remote_function_fields(spec) == {"min_pos_points": 0, "min_neg_points": 0}
    made.validate_function_compatibility({**REMOTE, "startswith_box_optional": False})


def test_the_driver_offers_it_as_an_interactor_with_clicks_and_an_optional_box(driver):
    assert driver.FUNCTION_KIND == "interactor"
    spec = driver._function_spec
    assert driver.get_remote_function_fields(spec) == {
        "min_pos_points": 0,
        "min_neg_points": 0,
        "startswith_box_optional": True,
    }
    driver.validate_function_compatibility(REMOTE)


def test_its_masks_are_the_engines_and_a_frame_is_loaded_once(driver, fast):
    before = Media.loads
    frame = 5  # which no other test asks for
    for positive, negative, box in (
        ([(170.5, 120.5)], [], []),
        ([(170.5, 120.5), (230, 180)], [(20, 20)], []),
        ([], [], [(110, 60), (340, 270)]),
        ([(230, 180)], [], [(340, 270), (110, 60)]),
    ):
        clicks = [Click(*p) for p in positive] + [Click(*p, False) for p in negative]
        expected = fast.segment(CAT, clicks, Box(110, 60, 340, 270) if box else None, ordered=False).mask
        np.testing.assert_array_equal(mask_of(ask(driver, positive, negative, box, frame)), expected)
    assert Media.loads == before + 1


def test_a_region_of_interest_is_a_photo_of_its_own(driver, fast):
    expected = fast.segment(CAT[50:250, 100:400], [Click(70.5, 70.5)], ordered=False).mask
    found = mask_of(ask(driver, [(70.5, 70.5)], frame=2, roi=[100, 50, 400, 250]), 200, 300)
    np.testing.assert_array_equal(found, expected)


def test_prompts_that_say_nothing_get_no_shape(driver):
    assert ask(driver) == []
    assert ask(driver, negative=[(20, 20)]) == []
