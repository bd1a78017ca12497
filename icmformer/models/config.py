"""Frozen descriptions of the networks, and the registry of named variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from icmformer.errors import ConfigError

Upsample = Literal["x1", "x2", "x4"]
VIT_FAMILIES = ("icmformer-vit", "simpleclick-vit")
SWIN_FAMILY = "icmformer-swin"
HYBRID_FAMILY = "icmformer-hybrid"


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise ConfigError(text)


@dataclass(frozen=True)
class ViTConfig:
    """A plain-ViT network: iCMFormer or its sister SimpleClick.

    Attributes:
        family: `icmformer-vit` or `simpleclick-vit`.
        img_size: Input side in pixels that the position embedding is made for; the default input size when serving.
        patch_size: Patch side in pixels.
        embed_dim: Token width.
        depth: Number of blocks; the first half runs on both streams of an iCMFormer.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs over `embed_dim`.
        neck_out_dims: Widths of the pyramid's levels 1/4, 1/8, 1/16, 1/32.
        head_channels: Width of the head before the logit.
        upsample: `x1`, or `x2` / `x4` for one or two learned up-convolutions before the logit.
        published_extras: Keep the parameters that the published code creates and never uses, so that its state dicts
            load with `strict=True`.
    """

    family: str = "icmformer-vit"
    img_size: int = 448
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4
    neck_out_dims: tuple[int, int, int, int] = (128, 256, 512, 1024)
    head_channels: int = 256
    upsample: Upsample = "x1"
    published_extras: bool = True

    def __post_init__(self) -> None:
        _require(self.family in VIT_FAMILIES, f"family must be one of {VIT_FAMILIES}, got {self.family!r}")
        _require(self.depth % 2 == 0 and self.depth >= 4, f"depth must be even and at least 4, got {self.depth}")
        _require(self.depth == 12 or self.depth % 4 == 0, f"depth must be 12 or a multiple of 4, got {self.depth}")
        _require(224 % self.patch_size == 0, f"patch_size must divide 224, got {self.patch_size}")
        _check_common(self, self.embed_dim, self.num_heads)

    @property
    def cross_depth(self) -> int:
        """Number of cross-modality blocks."""
        return self.depth // 6 + 1

    @property
    def global_every(self) -> int:
        """Counting from 1, every block whose number is a multiple of this attends globally."""
        return 6 if self.depth == 12 else self.depth // 4


@dataclass(frozen=True)
class SwinConfig:
    """A Swin iCMFormer.

    Attributes:
        family: `icmformer-swin`.
        img_size: Default input side in pixels when serving; the network itself takes any size.
        patch_size: Patch side in pixels.
        embed_dim: Token width of the first stage; it doubles with each stage.
        depths: Blocks of the four stages.
        num_heads: Attention heads of the four stages.
        window_size: Window side in tokens.
        mlp_ratio: Hidden width of the MLPs over the token width.
        cross_depth: Number of cross-modality blocks, at 1/16.
        cross_num_heads: Their attention heads.
        head_channels: Width of the head before the logit.
        upsample: As for the plain ViT.
        published_extras: As for the plain ViT.
    """

    family: str = SWIN_FAMILY
    img_size: int = 448
    patch_size: int = 4
    embed_dim: int = 128
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    num_heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    window_size: int = 12
    mlp_ratio: float = 4
    cross_depth: int = 8
    cross_num_heads: int = 8
    head_channels: int = 256
    upsample: Upsample = "x1"
    published_extras: bool = True

    def __post_init__(self) -> None:
        _require(self.family == SWIN_FAMILY, f"family must be {SWIN_FAMILY!r}, got {self.family!r}")
        _require(all(d >= 1 for d in self.depths), f"depths must be positive, got {self.depths}")
        _require(self.window_size >= 2, f"window_size must be at least 2, got {self.window_size}")
        for stage, heads in enumerate(self.num_heads):
            _check_common(self, self.embed_dim << stage, heads)
        _check_common(self, self.embed_dim * 4, self.cross_num_heads)


@dataclass(frozen=True)
class HybridConfig:
    """An iCMFormer whose image tokens come from a convolutional trunk (EfficientNet-Lite0).

    Attributes:
        family: `icmformer-hybrid`.
        img_size: Input side in pixels that the position embedding is made for; the default input size when serving.
        embed_dim: Token width, at 1/16.
        depth: Number of blocks; the first half runs on both streams.
        cross_depth: Number of cross-modality blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs over `embed_dim`.
        neck_out_dims: Widths of the levels 1/4 and 1/8.
        head_channels: Width of the head before the logit.
        upsample: As for the plain ViT.
    """

    family: str = HYBRID_FAMILY
    img_size: int = 320
    embed_dim: int = 192
    depth: int = 4
    cross_depth: int = 2
    num_heads: int = 3
    mlp_ratio: float = 4
    neck_out_dims: tuple[int, int] = (48, 96)
    head_channels: int = 64
    upsample: Upsample = "x1"

    def __post_init__(self) -> None:
        _require(self.family == HYBRID_FAMILY, f"family must be {HYBRID_FAMILY!r}, got {self.family!r}")
        _require(self.depth % 2 == 0 and self.depth >= 2, f"depth must be even and at least 2, got {self.depth}")
        _require(self.cross_depth >= 1, f"cross_depth must be at least 1, got {self.cross_depth}")
        _require(self.img_size % 32 == 0, f"img_size must be a multiple of 32, got {self.img_size}")
        _check_common(self, self.embed_dim, self.num_heads)


NetworkConfig = ViTConfig | SwinConfig | HybridConfig

_OPTIONS: Mapping[type, frozenset[str]] = {
    ViTConfig: frozenset({"published_extras"}),
    SwinConfig: frozenset({"img_size", "mlp_ratio", "cross_depth", "cross_num_heads", "published_extras"}),
    HybridConfig: frozenset(),
}
"""What a mapping may leave out: the published networks know only one value of these."""


def _check_common(config: NetworkConfig, dim: int, heads: int) -> None:
    _require(heads > 0 and dim > 0 and dim % heads == 0, f"{heads} heads do not divide a width of {dim}")
    _require(config.img_size > 0, f"img_size must be positive, got {config.img_size}")
    _require(config.upsample in ("x1", "x2", "x4"), f"upsample must be x1, x2 or x4, got {config.upsample!r}")
    _require(config.head_channels >= 4, f"head_channels must be at least 4, got {config.head_channels}")


def _vit(
    dim: int, depth: int, heads: int, neck: tuple[int, int, int, int], family: str = "icmformer-vit", **other: Any
) -> ViTConfig:
    return ViTConfig(family, embed_dim=dim, depth=depth, num_heads=heads, neck_out_dims=neck, **other)


_NECK_BASE = (128, 256, 512, 1024)
_NECK_LARGE = (192, 384, 768, 1536)
_NECK_HUGE = (240, 480, 960, 1920)
_SIMPLE = "simpleclick-vit"

VARIANTS: Mapping[str, NetworkConfig] = {
    # The papers' sizes.
    "icmformer_vit_base448": _vit(768, 12, 12, _NECK_BASE),
    "icmformer_vit_large448": _vit(1024, 24, 16, _NECK_LARGE),
    "icmformer_vit_huge448": _vit(1280, 32, 16, _NECK_HUGE, patch_size=14),
    "icmformer_swin_base384": SwinConfig(),
    "icmformer_swin_small224": SwinConfig(embed_dim=96, num_heads=(3, 6, 12, 24), head_channels=192),
    "simpleclick_vit_base448": _vit(768, 12, 12, _NECK_BASE, _SIMPLE),
    "simpleclick_vit_large448": _vit(1024, 24, 16, _NECK_LARGE, _SIMPLE),
    "simpleclick_vit_huge448": _vit(1280, 32, 16, _NECK_HUGE, _SIMPLE, patch_size=14),
    # Small ones of our own, for CPUs.
    "icmformer_vit_tiny224": _vit(
        192, 8, 3, (32, 64, 128, 256), img_size=224, head_channels=64, published_extras=False
    ),
    "icmformer_vit_tiny448": _vit(192, 8, 3, (32, 64, 128, 256), head_channels=64, published_extras=False),
    "icmformer_vit_small448": _vit(384, 12, 6, (64, 128, 256, 512), head_channels=128, published_extras=False),
    "icmformer_swin_tiny224": SwinConfig(
        img_size=224,
        embed_dim=48,
        depths=(2, 2, 4, 2),
        num_heads=(2, 4, 8, 16),
        window_size=7,
        cross_depth=2,
        head_channels=64,
        published_extras=False,
    ),
    "icmformer_hybrid_lite320": HybridConfig(),
    "simpleclick_vit_tiny224": _vit(
        192, 8, 3, (32, 64, 128, 256), _SIMPLE, img_size=224, head_channels=64, published_extras=False
    ),
}
"""Registered variants by name: family, backbone, size and the input side they are named for."""


def network_config(config: str | Mapping[str, Any] | NetworkConfig) -> NetworkConfig:
    """Returns the frozen config for a registered name or a mapping (as in a weights file's `config.json`).

    Raises:
        ConfigError: An unknown name, family or key, a value of the wrong type, or one that cannot work.
    """
    if isinstance(config, NetworkConfig):
        return config
    if isinstance(config, str):
        if config not in VARIANTS:
            raise ConfigError(f"unknown network {config!r}; registered: {', '.join(sorted(VARIANTS))}")
        return VARIANTS[config]
    if not isinstance(config, Mapping):
        raise ConfigError(f"a network config is a name or a mapping, got {type(config).__name__}")
    family = config.get("family")
    if family in VIT_FAMILIES:
        return ViTConfig(**_checked(config, ViTConfig))
    if family == SWIN_FAMILY:
        return SwinConfig(**_checked(config, SwinConfig))
    if family == HYBRID_FAMILY:
        return HybridConfig(**_checked(config, HybridConfig))
    raise ConfigError(
        f"unknown network family {family!r}; known: {', '.join((*VIT_FAMILIES, SWIN_FAMILY, HYBRID_FAMILY))}"
    )


def config_mapping(config: NetworkConfig) -> dict[str, Any]:
    """The JSON-ready mapping of a config, without options at their default; `network_config` turns it back."""
    fields = {f.name: f.default for f in dataclasses.fields(config) if f.name in _OPTIONS[type(config)]}
    mapping = dataclasses.asdict(config)
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in mapping.items()
        if key not in fields or value != fields[key]
    }


def variant_name(config: NetworkConfig) -> str | None:
    """The registered name of a config, or None."""
    return next((name for name, known in VARIANTS.items() if known == config), None)


def _checked(mapping: Mapping[str, Any], kind: type[NetworkConfig]) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}
    unknown = set(mapping) - set(defaults)
    if unknown:
        raise ConfigError(f"unknown keys in the network config: {', '.join(sorted(map(str, unknown)))}")
    return {key: _like(key, value, defaults[key]) for key, value in mapping.items()}


def _like(key: str, value: Any, example: Any) -> Any:
    """Returns `value` if it has the type of `example`, lists as tuples of as many integers."""
    if isinstance(example, tuple):
        fits = isinstance(value, Sequence) and len(value) == len(example) and all(type(v) is int for v in value)
        _require(fits, f"{key} must be {len(example)} integers, got {value!r}")
        return tuple(value)
    kinds = (int, float) if key == "mlp_ratio" else (type(example),)
    _require(type(value) in kinds, f"{key} must be {kinds[-1].__name__}, got {value!r}")
    return value
