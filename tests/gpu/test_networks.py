"""Networks on a GPU: the CPU's logits and the published code's, in the arithmetic that was asked for."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from icmformer.inference.backends.torch import Precision, TorchBackend
from icmformer.models import build_network
from tests.conftest import GOLDEN
from tests.gpu.conftest import CPU, FP32, picture, prompt, span, starter

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(60)]
SIZES = {
    "icmformer_vit_tiny224": 448,  # the position embedding is resized
    "simpleclick_vit_tiny224": 224,
    "icmformer_swin_tiny224": 224,
    "starter": 320,
}
LOW = Precision(torch.bfloat16, tf32=True)


@pytest.fixture(scope="module", params=list(SIZES))
def network(request):
    """A network on the CPU."""
    if request.param == "starter":
        return starter().build()
    torch.manual_seed(0)
    return build_network(request.param).eval()


@pytest.fixture
def side(network, request):
    """Of its input here."""
    return SIZES[request.node.callspec.params["network"]]


def logits_of(network, side, device, precision, batch=2):
    """What a network makes of a random image with clicks of both kinds and a previous mask."""
    backend = TorchBackend(copy.deepcopy(network).to(device), device, precision)
    return backend.decode(backend.encode(picture(side, batch)), *prompt(side, batch, count=4))


def test_fp32_logits_are_the_cpus(network, side, device):
    right, found = (logits_of(network, side, where, Precision()) for where in (CPU, device))
    assert found.shape == (2, 1, side, side)
    assert float((found - right).abs().max()) < FP32 * span(right)


def test_bf16_logits_are_near_and_not_fp32(network, side, device):
    """Measured on a CPU: bf16 moves logits by 0.005 to 0.02 of their range."""
    right, found = logits_of(network, side, CPU, Precision()), logits_of(network, side, device, LOW)
    assert found.dtype == torch.float32
    assert FP32 < float((found - right).abs().max()) / span(right) < 0.06


@pytest.mark.parametrize("case", ["icmformer_vit_d12", "simpleclick_vit_d12"])
def test_logits_are_the_published_codes(case, device):
    """Within 1e-5 on a CPU (tests/golden); here within FP32 of their range, which is about 3."""
    folder = GOLDEN / "networks" / case
    description, numbers = json.loads((folder / "case.json").read_text()), np.load(folder / "io.npz")
    network = build_network(description["config"])
    state = load_file(folder / "weights.safetensors")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True)
    backend = TorchBackend(network.eval().to(device), device, Precision())
    for run in description["runs"]:
        image, before = (
            torch.from_numpy(numbers[f"{name}_{run['index']}"]).float() / 255 for name in ("image", "prev")
        )
        points = torch.from_numpy(numbers[f"points_{run['index']}"])
        found, right = backend.decode(backend.encode(image), before, points), numbers[f"logits_{run['index']}"]
        np.testing.assert_allclose(found[:, :, ::4, ::4].numpy(), right, rtol=0, atol=FP32 * span(right))


@pytest.fixture(scope="module")
def errors(device):
    """How far the bundled network's logits on the device are from float64's, by whether TF32 is allowed."""
    network = starter().build()
    with torch.inference_mode():
        right = copy.deepcopy(network).double()(picture(320).double(), *(t.double() for t in prompt(320, count=4)))
    return {
        tf32: float((logits_of(network, 320, device, Precision(tf32=tf32), 1).double() - right).abs().max())
        / span(right)
        for tf32 in (False, True)
    }


def test_exact_computes_in_fp32(errors):
    """1e-6 on a CPU; TF32, with 10 bits, rounds each input by up to 5e-4."""
    assert errors[False] < 2e-5


def test_fast_computes_in_tf32_where_bf16_does_not(cuda, errors):
    assert errors[True] > 10 * errors[False]


def test_a_precision_holds_for_products_and_convolutions(cuda):
    """Each by itself, on sizes for which there are TF32 kernels."""
    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 512, 512, generator=random)
    image, kernel = torch.randn(4, 64, 64, 64, generator=random), torch.randn(64, 64, 3, 3, generator=random)
    for work, inputs in ((torch.mm, (left, right)), (lambda x, k: torch.conv2d(x, k, padding=1), (image, kernel))):
        exact = work(*(t.double() for t in inputs))
        error = {}
        for tf32 in (False, True):
            with Precision(tf32=tf32).applied(cuda):
                found = work(*(t.to(cuda) for t in inputs)).cpu().double()
            error[tf32] = float((found - exact).abs().max() / exact.abs().max())
        assert error[False] < 2e-5 < 5e-5 < error[True]
