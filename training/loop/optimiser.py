"""Optimiser, learning-rate schedule and averaged weights."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from icmformer.errors import ConfigError
from icmformer.models import ClickNetwork

from .config import OptimConfig

OptimizerStates = Mapping[str, Mapping[str, Tensor]]
"""What an optimiser keeps of each parameter, by its name."""

_BARE = ("pos_embed", "cls_token", "relative_position_bias_table", ".scale")
_SWIN_BLOCK = re.compile(r"backbone\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.")
_BLOCK = re.compile(r"backbone\.(trunk\.blocks|blocks)\.(\d+)\.")
_ANY_BLOCK = re.compile(r"backbone\.blocks2?\.(\d+)\.")
_CLICKS = "patch_embed_coords."
_EMBEDDING = ("backbone.patch_embed.", "backbone.pos_embed", "backbone.cls_token", "backbone.trunk.stem.")


def layer_depths(network: nn.Module) -> dict[str, int]:
    """How many layers of the pretrained backbone lie between each parameter and its end: 0 for the last block.

    Embeddings come before the first block. What no pretrained backbone holds (the click embedding, cross blocks, neck,
    head) is new, and counts as 0. (The published grouping leaves the click embedding out of the optimiser and gives
    cross block i the rate of block i.)
    """
    order: dict[str, tuple[int, int, int]] = {}
    for name, _ in network.named_parameters():
        if name.startswith(_EMBEDDING):
            order[name] = (-1, 0, 0)
        elif match := _SWIN_BLOCK.match(name):
            order[name] = (0, int(match[1]), int(match[2]) if match[2] else 10**6)
        elif match := _BLOCK.match(name):
            order[name] = (0 if match[1].startswith("trunk") else 1, int(match[2]), 0)
    layers = sorted(set(order.values()))
    return {
        name: len(layers) - 1 - layers.index(order[name]) if name in order else 0
        for name, _ in network.named_parameters()
    }


def _published_depths(network: nn.Module) -> dict[str, int]:
    """As the official code counts in plain ViTs: cross block i goes with block i, and the last block is one below all
    that is new.
    """
    blocks = sorted({int(m[2]) for n, _ in network.named_parameters() if (m := _BLOCK.match(n)) and m[1] == "blocks"})
    depths = {}
    for name, _ in network.named_parameters():
        if name.startswith(_EMBEDDING):
            depths[name] = len(blocks) + 1
        elif match := _ANY_BLOCK.match(name):
            depths[name] = len(blocks) - int(match[1])
        else:
            depths[name] = 0
    return depths


def parameter_groups(network: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups of parameters by weight decay and learning-rate factor (`lr_factor`); every one that learns is in one.

    Biases, norms and embeddings have no weight decay. Sets `requires_grad` off where the factor is 0.
    """
    depths = layer_depths(network)
    strangers = [p for p in config.lr_factors if not any(name.startswith(p) for name in depths)]
    if strangers:
        raise ConfigError(f"optim.lr_factors: no parameter's name begins with {', '.join(strangers)}")
    published = config.grouping == "published" and config.layer_decay != 1
    if published:
        depths = _published_depths(network)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        fitting = [p for p in config.lr_factors if name.startswith(p)]
        factor = config.lr_factors[max(fitting, key=len)] if fitting else 1.0
        factor *= config.layer_decay ** depths[name]
        if published and name.startswith(_CLICKS):
            factor = 0.0
        parameter.requires_grad_(factor > 0)
        if not factor:
            continue
        decay = 0.0 if parameter.ndim < 2 or name.endswith(_BARE) else config.weight_decay
        empty = {"params": [], "weight_decay": decay, "lr_factor": factor}
        groups.setdefault((decay, factor), empty)["params"].append(parameter)
    if not groups:
        raise ConfigError("optim.lr_factors freezes every parameter")
    return list(groups.values())


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over every parameter that learns; without weight decay it is Adam."""
    on_gpu = next(network.parameters()).device.type == "cuda"  # one kernel there for all parameters
    return torch.optim.AdamW(parameter_groups(network, config), lr=config.lr, betas=config.betas, fused=on_gpu)


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimiser's state by parameter name, so that it survives another grouping."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {names[parameter]: dict(state) for parameter, state in optimizer.state.items()}


def load_optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer, states: OptimizerStates) -> None:
    """Takes back what `optimizer_state` gave; parameters that were frozen then start afresh."""
    learning = {p for group in optimizer.param_groups for p in group["params"]}
    fused = bool(optimizer.defaults["fused"])  # counts its steps where the parameters are
    for name, parameter in network.named_parameters():
        if parameter in learning and name in states:
            optimizer.state[parameter] = {
                key: value.clone().to(parameter.device if fused or key != "step" else "cpu")
                for key, value in states[name].items()
            }


def learning_rate(config: OptimConfig, seen: float, total: int) -> float:
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
    """Exponential moving average of a network's parameters, ramped up at the start. Its buffers are constants."""

    def __init__(self, network: ClickNetwork, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Moves the average towards a network after its step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([*self.network.parameters()], [p.detach() for p in network.parameters()], step)
