"""Gradient checkpointing: the same gradients from less memory."""

import pytest
import torch

from icmformer.models import build_network
from tests.training.conftest import TINY_RUN
from tests.training.loop.test_trainer import trained
from training.loop.config import parse_config
from training.loop.gradient_checkpointing import checkpoint_blocks

SIZES = {
    "icmformer-vit": {"embed_dim": 48, "depth": 8, "num_heads": 3, "neck_out_dims": [8, 8, 8, 8]},
    "icmformer-swin": {"embed_dim": 24, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 4, 8], "window_size": 7},
}


@pytest.mark.parametrize("family", list(SIZES))
def test_gradients_stay_and_what_is_kept_for_them_shrinks(family):
    inputs = torch.rand(2, 3, 224, 224), torch.rand(2, 1, 224, 224), torch.tensor([[[50.0, 60, 0], [-1, -1, -1]]] * 2)

    def learn(checkpointed):
        torch.manual_seed(0)
        network = build_network({"family": family, "img_size": 224, **SIZES[family], "head_channels": 8}).train()
        network.head.dropout.p = 0.0
        blocks = checkpoint_blocks(network) if checkpointed else 0
        kept = {}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = network(*inputs)
        logits.square().mean().backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        return blocks, sum(size for key, size in kept.items() if key not in own), gradients

    (_, plain_bytes, plain), (blocks, bytes_kept, again) = learn(False), learn(True)
    assert blocks > 4
    assert bytes_kept < 0.5 * plain_bytes
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_learns_the_same_with_rounds_parts_and_dropout(shard_root, precision):
    raw = {**TINY_RUN, "precision": precision, "batch": 4, "accumulate": 2, "dropout": 0.3, "samples": 40}
    _, plain = trained(parse_config(raw), shard_root, 3)
    _, again = trained(parse_config({**raw, "gradient_checkpointing": True}), shard_root, 3)
    assert again == pytest.approx(plain, abs=1e-6)
