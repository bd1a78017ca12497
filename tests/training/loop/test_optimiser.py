import pytest
import torch

from icmformer.errors import ConfigError
from icmformer.models import build_network
from training.loop.config import OptimConfig
from training.loop.optimiser import (
    layer_depths,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    parameter_groups,
)

NETWORKS = [
    "icmformer_vit_tiny224",
    "simpleclick_vit_tiny224",
    "icmformer_swin_tiny224",
    "icmformer_hybrid_lite320",
    "icmformer_vit_small448",
]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("decay", [1.0, 0.75])
def test_every_parameter_is_optimised_once(name, decay):
    network = build_network(name)
    groups = parameter_groups(network, OptimConfig(layer_decay=decay))
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in network.parameters()}


def factors(network, config):
    groups = parameter_groups(network, config)
    by_id = {id(p): g["lr_factor"] for g in groups for p in g["params"]}
    return {n: by_id.get(id(p)) for n, p in network.named_parameters()}


def test_layer_decay_grows_towards_the_input_and_spares_what_is_new():
    network = build_network("icmformer_vit_tiny224")
    rates = factors(network, OptimConfig(layer_decay=0.5))
    assert rates["backbone.blocks.7.attn.qkv.weight"] == 1
    assert rates["backbone.blocks.6.mlp.fc1.bias"] == 0.5
    assert rates["backbone.blocks.0.norm1.weight"] == 0.5**7
    assert rates["backbone.patch_embed.proj.weight"] == rates["backbone.pos_embed"] == 0.5**8
    for new in ("patch_embed_coords.proj.weight", "backbone.blocks2.0.attn2.qkv.weight", "head.conv_seg.weight"):
        assert rates[new] == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_learns_faster_than_the_one_before(name):
    network = build_network(name)
    depths = layer_depths(network)
    path = [
        depths[n]
        for n, _ in network.named_parameters()
        if n.endswith((".norm1.weight", "depthwise.weight")) and "blocks." in n
    ]
    assert path == sorted(path, reverse=True)
    assert len(set(path)) == len(path)
    assert path[-1] == 0


def test_factors_go_by_the_longest_prefix_and_zero_freezes():
    network = build_network("icmformer_hybrid_lite320")
    config = OptimConfig(lr_factors={"backbone.": 0.5, "backbone.trunk.": 0})
    rates = factors(network, config)
    assert rates["backbone.trunk.blocks.3.depthwise.weight"] is None
    assert rates["backbone.blocks.0.norm1.weight"] == 0.5
    assert rates["head.conv_seg.weight"] == 1
    assert not network.backbone.trunk.stem.weight.requires_grad
    parameter_groups(network, OptimConfig())
    assert network.backbone.trunk.stem.weight.requires_grad


def test_names_that_fit_nothing_are_refused():
    network = build_network("icmformer_hybrid_lite320")
    with pytest.raises(ConfigError, match=r"begins with backbone\.trunc"):
        parameter_groups(network, OptimConfig(lr_factors={"backbone.trunc.": 0}))
    with pytest.raises(ConfigError, match="freezes every parameter"):
        parameter_groups(network, OptimConfig(lr_factors={"": 0}))


def test_vectors_and_embeddings_do_not_decay():
    network = build_network("icmformer_hybrid_lite320")
    groups = parameter_groups(network, OptimConfig(weight_decay=0.1))
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        bare = name.endswith(("bias", ".scale", "pos_embed")) or ".norm" in name or "backbone.norm" in name
        assert decays[id(parameter)] == (0 if bare else 0.1), name


def test_the_optimisers_state_survives_another_grouping():
    def step(network, optimizer):
        optimizer.zero_grad()
        sum((p * p).sum() for p in network.parameters() if p.requires_grad).backward()
        optimizer.step()

    network = build_network("icmformer_vit_tiny224")
    optimizer = make_optimizer(network, OptimConfig(lr_factors={"head.": 0}))
    step(network, optimizer)
    states = optimizer_state(network, optimizer)
    assert not any(name.startswith("head.") for name in states)
    other = make_optimizer(network, OptimConfig(layer_decay=0.9))
    load_optimizer_state(network, other, states)
    taken = optimizer_state(network, other)
    assert set(taken) == set(states)
    for name, state in states.items():
        assert torch.equal(taken[name]["exp_avg"], state["exp_avg"])
    step(network, other)
    name = "backbone.blocks.0.mlp.fc1.weight"
    assert optimizer_state(network, other)[name]["step"] == 2
    assert optimizer_state(network, other)["head.conv_seg.weight"]["step"] == 1
    assert states[name]["step"] == 1
