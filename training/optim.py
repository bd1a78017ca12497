"""Optimiser, learning-rate schedule and averaged weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from training.config import OptimConfig


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices and kernels with weight decay; biases, norms and embeddings without."""
    decayed, plain = [], []
    for name, parameter in network.named_parameters():
        bare = parameter.ndim < 2 or name.endswith(("pos_embed", "cls_token", "relative_position_bias_table"))
        (plain if bare else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over every parameter; without weight decay it is Adam."""
    return torch.optim.AdamW(parameter_groups(network, config.weight_decay), lr=config.lr, betas=config.betas)


def learning_rate(config: OptimConfig, seen: int, total: int) -> float:
    """The learning rate after `seen` of `total` samples."""
    rate = config.lr
    if seen < config.warmup_samples:
        return rate * (seen + 1) / (config.warmup_samples + 1)
    if config.schedule == "cosine":
        span = max(total - config.warmup_samples, 1)
        return rate * 0.5 * (1 + math.cos(math.pi * min((seen - config.warmup_samples) / span, 1.0)))
    if config.schedule == "step":
        return float(rate * 0.1 ** sum(seen >= share * total for share in config.steps))
    return rate


class AveragedWeights:
    """Exponential moving average of a network's parameters, ramped up at the start; buffers are copied."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.network.parameters())
        torch._foreach_lerp_(averages, [p.detach() for p in network.parameters()], 1 - decay)
