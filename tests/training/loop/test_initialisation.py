"""What no pretrained weights fill begins as in the published code, by the published recipe alone."""

import math

import pytest
import torch
from torch import nn

from icmformer.models import build_network
from tests.engines import MINIATURE
from tests.training.conftest import TINY_RUN
from training.loop.config import parse_config
from training.loop.initial_weights import starting_network
from training.loop.initialisation import initialise_as_published
from training.loop.trainer import Trainer


def built(name):
    torch.manual_seed(0)
    network = build_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    initialise_as_published(network)
    return network, before


@pytest.mark.parametrize("name", ["icmformer_vit_tiny224", "simpleclick_vit_tiny224"])
def test_linear_layers_of_plain_vits_are_xavier_uniform(name):
    network, _ = built(name)
    linear = {key: module for key, module in network.backbone.named_modules() if isinstance(module, nn.Linear)}
    assert any("blocks2" in key for key in linear) == name.startswith("icmformer")
    weights = [module.weight.detach() for module in linear.values()]
    weights.append(network.backbone.patch_embed.proj.weight.detach().flatten(1))
    for weight in weights:
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert not any(module.bias.any() for module in linear.values())
    assert network.backbone.pos_embed.detach().std() == pytest.approx(0.02, rel=0.05)
    assert network.backbone.pos_embed.detach().abs().max() > 0.06  # not truncated at all


@pytest.mark.parametrize("name", ["icmformer_vit_tiny224", "icmformer_swin_tiny224"])
def test_the_heads_convolutions_are_he_normal_and_the_rest_keeps_its_values(name):
    network, before = built(name)
    fusion = network.head.fusion_conv.conv
    assert fusion.weight.detach().std() == pytest.approx(math.sqrt(2 / fusion.out_channels), rel=0.05)
    assert not fusion.bias.any()
    after = network.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    ours = ("head.convs.", "head.fusion_conv.") + (("backbone.",) if "vit" in name else ())
    assert all(key.startswith(ours) for key in changed)
    for part in ("neck.down_16.0.weight", "patch_embed_coords.proj.weight", "head.conv_seg.weight"):
        assert part not in changed
    if "swin" in name:
        qkv = after["backbone.blocks2.0.attn1.qkv.weight"]
        assert qkv.std() == pytest.approx(0.02, rel=0.05)


def test_a_start_leaves_to_it_what_the_file_does_not_fill(tmp_path):
    torch.manual_seed(1)
    backbone = build_network(MINIATURE).backbone.state_dict()
    file = {key: value for key, value in backbone.items() if not key.startswith("blocks2.")}
    torch.save({"model": file}, tmp_path / "vit.pth")
    own, _ = starting_network(MINIATURE, str(tmp_path / "vit.pth"))
    published, told = starting_network(MINIATURE, str(tmp_path / "vit.pth"), "published")
    assert f"{len(file)} parameters taken" in told
    for key, value in file.items():
        assert torch.equal(published.backbone.state_dict()[key], value), key
    fresh = "blocks2.0.mlp.fc1.weight"  # 96 x 24
    bound = math.sqrt(6 / (96 + 24))
    assert own.backbone.state_dict()[fresh].std() == pytest.approx(0.02, rel=0.1)
    assert published.backbone.state_dict()[fresh].std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_the_recipe_of_a_run_says_how_it_begins():
    name = "backbone.blocks2.0.mlp.fc1.weight"
    spread = {}
    for recipe in ("own", "published"):
        trainer = Trainer(parse_config({**TINY_RUN, "recipe": recipe}), torch.device("cpu"))
        spread[recipe] = trainer.network.state_dict()[name].std().item()
        assert torch.equal(trainer.average.network.state_dict()[name], trainer.network.state_dict()[name])
    assert spread["own"] == pytest.approx(0.02, rel=0.1)
    assert spread["published"] > 0.1
