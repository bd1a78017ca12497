"""Which network a published state dict belongs to, read off its tensors and, where they cannot tell, its config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from icmformer.errors import ConfigError, WeightsError
from icmformer.models.config import VARIANTS, HybridConfig, NetworkConfig, SwinConfig, ViTConfig, network_config
from icmformer.weights.state_dicts import listed

_HYBRID_PATCH = 16  # pixels a token
_UPSAMPLE = {1: "x1", 2: "x2", 4: "x4"}


def published_config(state: Mapping[str, Tensor], hints: Mapping[str, Any], where: str) -> NetworkConfig:
    """Derives the config of a state dict.

    Args:
        state: Parameter name -> tensor, with the published names.
        hints: The checkpoint's own config, as iCMFormer and SimpleClick save it; may be empty.
        where: Named in errors.

    Raises:
        WeightsError: Not a network of these families, or one whose number of heads nothing tells.
    """
    params = hints.get("params") if isinstance(hints.get("params"), Mapping) else {}
    assert isinstance(params, Mapping)
    backbone = _parameter(params, "backbone_params")
    try:
        if "family" in hints:
            return network_config(hints)
        if "backbone.embed_16.weight" in state:
            return _hybrid(state)
        if "backbone.layers.0.blocks.0.attn.relative_position_bias_table" in state:
            return _swin(state, backbone)
        return _vit(state, backbone)
    except (KeyError, IndexError, ArithmeticError, TypeError, ValueError, ConfigError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{where} is neither an iCMFormer nor a SimpleClick state dict ({why}; its tensors are called "
            f"{listed(state)}); for a backbone alone (MAE, timm, Swin) use it to start a training instead"
        ) from error


def _parameter(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A constructor argument, which published files wrap as {"type", "value", "specified"}."""
    entry = params.get(name)
    if isinstance(entry, Mapping) and isinstance(entry.get("value"), Mapping):
        entry = entry["value"]
    return entry if isinstance(entry, Mapping) else {}


def _vit(state: Mapping[str, Tensor], backbone: Mapping[str, Any]) -> ViTConfig:
    embed = state["backbone.patch_embed.proj.weight"]
    dim, patch = embed.shape[0], embed.shape[2]
    side = math.isqrt(state["backbone.pos_embed"].shape[1] - 1)
    channels, upsample = _head(state)
    levels = ("down_4.5", "down_8.2", "down_16.0", "down_32.2")
    o4, o8, o16, o32 = (state[f"neck.{level}.weight"].shape[0] for level in levels)
    depth = _count(state, "backbone.blocks.")
    ratio = state["backbone.blocks.0.mlp.fc1.weight"].shape[0] / dim
    heads = backbone.get("num_heads") or _registered_heads(dim, depth)
    return ViTConfig(
        family="icmformer-vit" if "backbone.blocks2.0.norm1.weight" in state else "simpleclick-vit",
        img_size=side * patch,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=int(heads),
        mlp_ratio=int(ratio) if ratio == int(ratio) else ratio,
        neck_out_dims=(o4, o8, o16, o32),
        head_channels=channels,
        upsample=upsample,
        published_extras="backbone.head.weight" in state,
    )


def _swin(state: Mapping[str, Tensor], backbone: Mapping[str, Any]) -> SwinConfig:
    tables = [state[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(4)]
    embed = state["backbone.patch_embed.proj.weight"]
    channels, upsample = _head(state)
    d0, d1, d2, d3 = (_count(state, f"backbone.layers.{i}.blocks.") for i in range(4))
    h0, h1, h2, h3 = (table.shape[1] for table in tables)
    ratio = state["backbone.layers.0.blocks.0.mlp.fc1.weight"].shape[0] / embed.shape[0]
    return SwinConfig(
        patch_size=embed.shape[2],
        embed_dim=embed.shape[0],
        depths=(d0, d1, d2, d3),
        num_heads=(h0, h1, h2, h3),
        window_size=(math.isqrt(tables[0].shape[0]) + 1) // 2,
        mlp_ratio=int(ratio) if ratio == int(ratio) else ratio,
        cross_depth=_count(state, "backbone.blocks2."),
        head_channels=channels,
        upsample=upsample,
        published_extras="backbone.patch_embed_coords.proj.weight" in state,
    )


def _hybrid(state: Mapping[str, Tensor]) -> HybridConfig:
    positions = state["backbone.pos_embed"]
    dim, depth = positions.shape[2], _count(state, "backbone.blocks.")
    channels, upsample = _head(state)
    ratio = state["backbone.blocks.0.mlp.fc1.weight"].shape[0] / dim
    return HybridConfig(
        img_size=math.isqrt(positions.shape[1]) * _HYBRID_PATCH,
        embed_dim=dim,
        depth=depth,
        cross_depth=_count(state, "backbone.blocks2."),
        num_heads=_registered_heads(dim, depth, HybridConfig),
        mlp_ratio=int(ratio) if ratio == int(ratio) else ratio,
        neck_out_dims=(state["neck.prompt_4.2.weight"].shape[0], state["neck.prompt_8.weight"].shape[0]),
        head_channels=channels,
        upsample=upsample,
    )


def _head(state: Mapping[str, Tensor]) -> tuple[int, Any]:
    channels = state["head.conv_seg.weight"].shape[1]
    return channels, _UPSAMPLE[state["head.fusion_conv.conv.weight"].shape[0] // channels]


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _registered_heads(dim: int, depth: int, kind: type[ViTConfig | HybridConfig] = ViTConfig) -> int:
    for config in VARIANTS.values():
        if isinstance(config, kind) and (config.embed_dim, config.depth) == (dim, depth):
            return config.num_heads
    raise ConfigError(f"the number of attention heads for width {dim} and depth {depth} is not known")
