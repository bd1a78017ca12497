"""Logits, parameter names and shapes against the published code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from icmformer.models import build_network, meta_network
from tests.conftest import GOLDEN

TOLERANCE = 1e-5
CASES = ["icmformer_vit_d12", "simpleclick_vit_d12", "icmformer_swin_w7"]
PAPER = sorted(path.stem for path in (GOLDEN / "state_dict_keys").glob("*.json"))


@pytest.fixture(params=CASES)
def case(request) -> Path:
    """A case's folder; the Swin one, 6 MB, is not kept in the repository."""
    folder = GOLDEN / "networks" / request.param
    if folder.is_dir():
        return folder
    return request.getfixturevalue("shared") / "reference" / "networks" / request.param


def test_logits_are_the_published_ones(case):
    description = json.loads((case / "case.json").read_text())
    network = build_network(description["config"])
    state = load_file(case / "weights.safetensors")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True)
    numbers = np.load(case / "io.npz")
    for run in description["runs"]:
        index = run["index"]
        image = torch.from_numpy(numbers[f"image_{index}"]).float() / 255
        prev_mask = torch.from_numpy(numbers[f"prev_{index}"]).float() / 255
        points = torch.from_numpy(numbers[f"points_{index}"])
        before = {k: v.clone() for k, v in network.state_dict().items()}
        with torch.inference_mode():
            logits = network(image, prev_mask, points)
            split = network.decode(network.encode_image(image), prev_mask, points)
        assert logits.shape == (run["batch"], 1, run["size"], run["size"])
        np.testing.assert_allclose(logits[:, :, ::4, ::4].numpy(), numbers[f"logits_{index}"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(split.numpy(), logits.numpy(), rtol=0, atol=TOLERANCE)
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("variant", PAPER)
def test_parameters_are_the_published_ones(variant):
    expected = json.loads((GOLDEN / "state_dict_keys" / f"{variant}.json").read_text())
    network = meta_network(variant)
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected


def test_all_five_paper_networks_and_simpleclick_are_covered():
    assert len(PAPER) == 6
