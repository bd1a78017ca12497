"""From a config to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from icmformer.layers.attention import WindowAttention
from icmformer.models.config import HybridConfig, NetworkConfig, SwinConfig, network_config
from icmformer.models.hybrid import ICMFormerHybrid
from icmformer.models.network import ClickNetwork
from icmformer.models.swin import ICMFormerSwin
from icmformer.models.vit import ICMFormerViT, SimpleClickViT


def build_network(config: str | Mapping[str, Any] | NetworkConfig) -> ClickNetwork:
    """Builds a network, freshly initialised, in evaluation mode.

    Args:
        config: A registered name (see `icmformer models`), a mapping as in `config.json`, or a frozen config.

    Returns:
        The network: `network(image, prev_mask, points) -> logits`.

    Raises:
        ConfigError: See `network_config`.
    """
    chosen = network_config(config)
    network: ClickNetwork
    if isinstance(chosen, SwinConfig):
        network = ICMFormerSwin(chosen)
    elif isinstance(chosen, HybridConfig):
        network = ICMFormerHybrid(chosen)
    elif chosen.family == "icmformer-vit":
        network = ICMFormerViT(chosen)
    else:
        network = SimpleClickViT(chosen)
    _initialise(network)
    return network.eval()


def meta_network(config: str | Mapping[str, Any] | NetworkConfig) -> ClickNetwork:
    """A network's shapes without values, on the meta device; cheap in time and memory.

    Args:
        config: As for `build_network`.

    Raises:
        ConfigError: See `network_config`.
    """
    with torch.device("meta"), _WithoutValues():
        return build_network(config)


class _WithoutValues(TorchFunctionMode):
    """Passes over the drawing of random values: there, torch would load its whole compiler, 0.1 GB, to do nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _initialise(network: ClickNetwork) -> None:
    """Linear layers start as in ViT and Swin: truncated normal of 0.02, biases zero. Convolutions keep torch's."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
