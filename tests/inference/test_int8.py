"""int8 against numpy's own rounding, and the starter's masks in int8 against those in fp32."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from skimage import data

from icmformer import Click, LoadedImage, weights
from icmformer.errors import ConfigError, WeightsError
from icmformer.inference import profiles
from icmformer.inference.backends import openvino as openvino_backend
from icmformer.weights.activation_ranges import ActivationRanges
from icmformer.weights.store import file_sha256
from tests.engines import in_precision

pytestmark = pytest.mark.skipif(not openvino_backend.available(), reason="OpenVINO is not installed")
PHOTOS = {"chelsea": (170, 120), "astronaut": (225, 260), "coffee": (300, 150), "rocket": (320, 200)}


def test_a_product_is_that_of_the_rounded_numbers():
    import openvino
    from openvino import opset13 as opset

    from icmformer.inference.backends.int8 import products, quantise, showing_inputs

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(24, 16)).astype(np.float32) * np.geomspace(0.1, 10, 24)[:, None].astype(np.float32)
    given = opset.parameter([5, 16], np.float32)
    product = opset.matmul(given, opset.constant(kernel), False, True)
    unlike = opset.matmul(product, opset.transpose(product, opset.constant([1, 0])), False, False)  # of no weights
    model = openvino.Model([product, unlike], [given])
    assert products(model) == [product]
    shown, names = showing_inputs(model)
    values = rng.uniform(-1, 3, (5, 16)).astype(np.float32)
    assert names == [product.get_friendly_name()]
    np.testing.assert_array_equal(openvino.Core().compile_model(shown, "CPU")(values)[0], values)

    quantise(model, {names[0]: (-1.0, 3.0)}, "mine")
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(values)[0]
    step = 4 / 255
    rounded = step * np.clip(np.round(values / step), -64, 191)
    steps = np.abs(kernel).max(axis=1, keepdims=True) / 127
    expected = rounded @ (steps * np.round(kernel / steps)).T
    # a value may lie between two steps to the last bit and be rounded either way
    np.testing.assert_allclose(found, expected, atol=2 * step * np.abs(kernel).max() / 127 + 1e-5, rtol=1e-4)
    assert np.abs(found - values @ kernel.T).max() > 1e-3
    with pytest.raises(ConfigError, match=r"mine has int8 ranges of a network that was converted otherwise"):
        quantise(model, {"another": (0.0, 1.0)}, "mine")


def test_the_starters_masks_are_those_of_fp32_but_for_a_few_pixels():
    whole, rounded = in_precision("fp32"), in_precision("int8")
    assert (whole.arithmetic, rounded.arithmetic) == ("fp32", "int8")
    assert whole.backend.identity != rounded.backend.identity
    ious = []
    for name, (x, y) in PHOTOS.items():
        photo = LoadedImage.from_array(getattr(data, name)())
        masks = [each.segment(photo, [Click(x, y), Click(x + 15, y + 10)]).mask for each in (whole, rounded)]
        assert masks[0].sum() > 100
        ious.append((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
    assert np.mean(ious) > 0.95
    assert min(ious) < 1  # it is another arithmetic


def test_ranges_that_do_not_fit_are_told_when_a_server_warms_up():
    starter = weights.load("starter")
    other = ActivationRanges(starter.int8.encode, {"elsewhere": (0.0, 1.0)})
    with pytest.raises(ConfigError, match="measure them again"):
        in_precision("int8", replace(starter, int8=other)).warm_up()


def test_where_nobody_asked_for_int8_ranges_that_do_not_fit_cost_time_and_no_mask(monkeypatch, caplog):
    """As of another version of OpenVINO, which names what it converts otherwise."""
    monkeypatch.setattr(profiles, "has_bf16", lambda device: False)
    monkeypatch.setattr(profiles, "instruction_sets", lambda: ("AVX2", "VNNI"))
    assert in_precision("auto").arithmetic == "int8"
    starter, photo = weights.load("starter"), LoadedImage.from_array(data.chelsea())
    other = ActivationRanges(starter.int8.encode, {"elsewhere": (0.0, 1.0)})
    engine = in_precision("auto", replace(starter, int8=other))
    assert engine.arithmetic == engine.backend.identity[2] == "fp32"
    assert "computing in fp32, not in int8: starter has int8 ranges" in caplog.text
    assert engine.segment(photo, [Click(170, 120)]) == in_precision("fp32").segment(photo, [Click(170, 120)])


def test_an_engine_beside_has_the_same_ranges():
    starter = weights.load("starter")
    with pytest.raises(ConfigError, match="another network"):
        in_precision("int8").beside(weights=replace(starter, int8=None))


def test_ranges_travel_with_weights_and_name_no_network_anew(tmp_path):
    starter = weights.load("starter")
    assert starter.identity == replace(starter, int8=None).identity
    folder = weights.save(
        tmp_path / "again",
        starter.config,
        starter.state_dict,
        "again",
        stored="int8",
        serving=starter.serving,
        int8=starter.int8,
    )
    again = weights.load(folder)
    assert again.int8 == starter.int8
    assert again.sha256 == starter.sha256
    assert in_precision("int8", again).backend.identity == in_precision("int8").backend.identity


@pytest.mark.parametrize(
    "ranges", [[], {"encode": {}}, {"encode": {"a": [2, 1]}, "decode": {}}, {"encode": 1, "decode": 2}]
)
def test_damaged_ranges_are_told(tmp_path, ranges):
    folder = shutil.copytree(weights.load("starter").path, tmp_path / "damaged")
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(description | {"int8": ranges}))
    sums = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in ("config.json", "model.safetensors"))
    (folder / "SHA256SUMS").write_text(sums)
    with pytest.raises(WeightsError, match=r"config\.json: int8 must hold ranges"):
        weights.load(folder)
