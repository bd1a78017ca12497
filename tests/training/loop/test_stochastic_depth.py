"""Stochastic depth in Swin: by the published recipe, in training alone."""

import numpy as np
import pytest
import torch

from icmformer.layers.blocks import SwinBlock
from icmformer.layers.windows import shifted_window_mask
from icmformer.models import build_network
from training.loop.config import parse_config
from training.loop.gradient_checkpointing import checkpoint_blocks
from training.loop.samples import Batch
from training.loop.trainer import IterativePass, Trainer

SWIN = {
    "family": "icmformer-swin",
    "img_size": 64,
    "embed_dim": 16,
    "depths": [2, 2, 4, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "cross_depth": 1,
    "head_channels": 8,
    "published_extras": False,
}
RUN = {"network": SWIN, "size": 64, "batch": 2, "samples": 40, "precision": "fp32", "max_rounds": 1}


def rates(network):
    return [module.drop_path for module in network.modules() if isinstance(module, SwinBlock)]


def batch():
    target = torch.zeros(2, 1, 64, 64, dtype=torch.int8)
    target[..., 20:40, 20:50] = 1
    points = torch.full((2, 8, 3), -1.0)
    points[:, 0] = torch.tensor([30.0, 30.0, 0.0])
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8))
    return Batch((0, 1), pixels, target, points)


def test_the_rate_rises_linearly_to_a_fifth_by_the_published_recipe_alone():
    published = Trainer(parse_config({**RUN, "recipe": "published"}), torch.device("cpu"))
    np.testing.assert_allclose(rates(published.network), np.linspace(0, 0.2, 10), atol=1e-9)
    assert not any(rates(Trainer(parse_config(RUN), torch.device("cpu")).network))
    assert not any(rates(build_network(SWIN)))


def test_a_branch_is_left_out_or_scaled_up_sample_by_sample():
    torch.manual_seed(0)
    block = SwinBlock(16, 2, 4, shift=0, mlp_ratio=2, eps=1e-5)
    torch.nn.init.zeros_(block.mlp.fc2.weight)
    torch.nn.init.zeros_(block.mlp.fc2.bias)  # the attention alone is left
    x, mask = torch.randn(400, 4, 4, 16), shifted_window_mask(4, 4, 4, 2, torch.device("cpu"))
    with torch.no_grad():
        branch = block.eval()(x, mask) - x
        block.drop_path = 0.25
        assert torch.equal(block(x, mask) - x, branch)
        dropped = block.train()(x, mask) - x
    kept = dropped.abs().amax(dim=(1, 2, 3)) > 0
    torch.testing.assert_close(dropped[kept], branch[kept] / 0.75, rtol=1e-4, atol=1e-5)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.07)


def test_neither_state_nor_predictions_know_of_it():
    torch.manual_seed(0)
    network = build_network(SWIN).eval()
    names, given = list(network.state_dict()), batch()
    inputs = (given.pixels(torch.device("cpu")), torch.zeros(2, 1, 64, 64), given.points)
    with torch.no_grad():
        before = network(*inputs)
        network.set_stochastic_depth(0.9)
        assert list(network.state_dict()) == names
        assert torch.equal(network(*inputs), before)
        assert not torch.equal(network.train()(*inputs), before)


def test_rounds_see_the_whole_network():
    torch.manual_seed(0)
    network = build_network(SWIN)
    network.set_stochastic_depth(0.9)
    given, seen, decode = batch(), [], network.decode_map

    def recorded(features, prompt):
        seen.append([tensor.detach().clone() for tensor in features.tensors])
        return decode(features, prompt)

    network.decode_map = recorded
    image = given.pixels(torch.device("cpu"))
    IterativePass(network.train())(image, given, rounds=1, seed=0)
    with torch.no_grad():
        whole = network.eval().encode_image(image).tensors
    in_round, in_training = seen
    assert all(torch.equal(a, b) for a, b in zip(in_round, whole, strict=True))
    assert not torch.equal(in_training[1], whole[1])


def test_what_is_dropped_depends_on_the_step_not_on_what_ran_before():
    losses = []
    for checkpointed in (False, False, True):
        trainer = Trainer(parse_config({**RUN, "recipe": "published"}), torch.device("cpu"))
        if checkpointed:  # what is computed again drops the same
            checkpoint_blocks(trainer.network)
        losses.append([trainer.train_step(batch()).scalars["loss"] for _ in range(3)])
        torch.rand(1000)
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)
