"""The networks and their registry."""

from icmformer.models.build import build_network, meta_network
from icmformer.models.config import VARIANTS, HybridConfig, NetworkConfig, SwinConfig, ViTConfig, network_config
from icmformer.models.network import ClickNetwork, ImageFeatures

__all__ = [
    "VARIANTS",
    "ClickNetwork",
    "HybridConfig",
    "ImageFeatures",
    "NetworkConfig",
    "SwinConfig",
    "ViTConfig",
    "build_network",
    "meta_network",
    "network_config",
]
