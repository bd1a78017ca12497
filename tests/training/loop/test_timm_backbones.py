"""timm's backbones find their places, and compute there what they compute in timm.

Names and shapes are timm's own (tests/golden/timm); what needs timm itself is skipped without it.
"""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import conv2d

from icmformer.errors import WeightsError
from icmformer.models import build_network
from icmformer.models.network import IMAGENET_MEAN, IMAGENET_STD
from icmformer.weights.vit_backbones import CENTRED, Normalisation
from icmformer.weights.warm_start import warm_start
from tests.conftest import GOLDEN
from tests.golden.timm.make import NAMES, shapes
from training.loop.initial_weights import starting_network
from training.loop.timm_backbones import declared_normalisation, import_timm

MODELS = dict(zip(NAMES, ("icmformer_vit_base448", "icmformer_vit_base448", "icmformer_swin_base384"), strict=True))


@pytest.fixture(scope="module")
def timm():
    try:
        return import_timm()
    except WeightsError as error:
        pytest.skip(str(error))


def generated(name):
    """A state dict of timm's names and shapes with values of its own in every entry."""
    generator = torch.Generator().manual_seed(0)
    kinds = json.loads((GOLDEN / "timm" / f"{name}.json").read_text())
    return {key: torch.randn(shape, generator=generator) for key, shape in kinds.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_block_parameter_of_a_timm_backbone_lands_in_its_place(name):
    source = generated(name)
    network = build_network(MODELS[name])
    report = warm_start(network, source)
    state = network.state_dict()
    blocks = [n for n, _ in network.named_parameters() if ".blocks." in n]
    assert len(blocks) > 140
    assert report.bare_blocks == ()
    for key in blocks:
        assert torch.equal(state[key], source[key.removeprefix("backbone.")]), key
    # what is left over: the classifier, and the norm before it
    rest = {n for n in report.unused if "relative_position_index" not in n and "attn_mask" not in n}
    assert rest <= {f"backbone.{n}" for n in ("norm.weight", "norm.bias", "head.weight", "head.bias")} | {
        "backbone.head.fc.weight",
        "backbone.head.fc.bias",
    }


def test_what_a_backbone_does_not_fill_is_listed(tmp_path):
    source = generated(NAMES[0])
    del source["blocks.3.attn.qkv.weight"], source["blocks.7.mlp.fc2.bias"]
    torch.save(source, tmp_path / "mae.pth")
    _, told = starting_network(MODELS[NAMES[0]], str(tmp_path / "mae.pth"))
    assert told.endswith("2 parameters, backbone.blocks.3.attn.qkv.weight, backbone.blocks.7.mlp.fc2.bias")


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_timms(timm, name):
    assert shapes(name) == json.loads((GOLDEN / "timm" / f"{name}.json").read_text())


@torch.inference_mode()
def test_a_vit_computes_what_it_computes_in_timm(timm):
    torch.manual_seed(0)
    theirs = timm.create_model(NAMES[1], pretrained=False).eval()
    network = build_network(MODELS[NAMES[1]]).eval()
    warm_start(network, theirs.state_dict())
    image = torch.rand(1, 3, 224, 224)
    expected = theirs.patch_embed(image)
    tokens = network.backbone.patch_embed(image).flatten(1, 2)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    for ours, other in zip(network.backbone.blocks, theirs.blocks, strict=True):
        tokens, expected = ours(tokens, 1), other(expected)
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_a_swin_computes_what_it_computes_in_timm(timm):
    torch.manual_seed(0)
    theirs = timm.create_model(NAMES[2], pretrained=False).eval()
    network = build_network(MODELS[NAMES[2]]).eval()
    warm_start(network, theirs.state_dict())
    image = torch.rand(1, 3, 384, 384)
    x, y = network.backbone.patch_embed(image), theirs.patch_embed(image)
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    stages = network.backbone.stages()
    for number in range(3):  # the fourth is one window, where the published networks keep the shift and timm does not
        x = stages[number](stages[number - 1].reduce(x) if number else x)
        y = theirs.layers[number](y)
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


def test_timm_tells_what_its_models_were_trained_with(timm):
    for name, expected in ((NAMES[0], Normalisation(IMAGENET_MEAN, IMAGENET_STD)), (NAMES[1], CENTRED)):
        model = timm.create_model(name, pretrained=False)
        assert declared_normalisation(model.pretrained_cfg) == expected


@torch.inference_mode()
def test_a_model_by_name_brings_its_normalisation(monkeypatch):
    """A stand-in for timm's hub client, which would download."""
    source = generated(NAMES[1])
    model = SimpleNamespace(state_dict=lambda: source, pretrained_cfg={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    hub = SimpleNamespace(is_model=lambda name: True, create_model=lambda name, pretrained: model)
    monkeypatch.setitem(sys.modules, "timm", hub)
    network, told = starting_network(MODELS[NAMES[1]], f"timm:{NAMES[1]}")
    assert "converted from pixels of mean 0.5 and standard deviation 0.5" in told
    image = torch.rand(1, 3, 32, 32)
    expected = conv2d(image * 2 - 1, source["patch_embed.proj.weight"], source["patch_embed.proj.bias"], stride=16)
    tokens = network.backbone.patch_embed(network.normalise(image)).permute(0, 3, 1, 2)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-3)


def test_a_name_that_timm_does_not_have_is_told(timm):
    with pytest.raises(WeightsError, match="no model"):
        starting_network(MODELS[NAMES[0]], "timm:vit_of_nobody")


def test_without_timm_a_name_of_its_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"icmformer\[timm\]"):
        starting_network(MODELS[NAMES[0]], "timm:vit_base_patch16_224.mae")
