"""Starting a network from other weights: a pretrained backbone, or a sister network.

Backbones: plain ViTs in the naming that timm, MAE, DINO and DINOv2 share, Swins in Microsoft's and timm's,
EfficientNet-Lite0 in the naming of efficientnet-pytorch and efficientnet-lite-pytorch. Sister: a SimpleClick
checkpoint, every tensor of which exists in the iCMFormer of its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from icmformer.errors import WeightsError
from icmformer.layers.embed import resize_position_embedding
from icmformer.models import ClickNetwork, HybridConfig, SwinConfig
from icmformer.weights.state_dicts import StateDict, find_state_dict, listed
from icmformer.weights.vit_backbones import Normalisation, fold_layer_scale, renormalise, resample_patches

_PATCHES = "backbone.patch_embed.proj"


@dataclass(frozen=True)
class StartReport:
    """What became of each parameter.

    Attributes:
        loaded: Taken over as they are, or converted without a change of what they compute (see `notes`).
        resized: Taken over after resizing (position embeddings, patch kernels, position bias tables).
        fresh: Parameters of the network that start as initialised.
        unused: Entries of the source that the network has no place for.
        notes: What was converted, for people.
    """

    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def bare_blocks(self) -> tuple[str, ...]:
        """Parameters of the backbone's own blocks that the source did not fill; the cross blocks are not among them."""
        return tuple(name for name in self.fresh if name.startswith("backbone.") and ".blocks." in name)


def warm_start(
    network: ClickNetwork, source: Mapping[str, object], trained: Normalisation | None = None
) -> StartReport:
    """Copies into a network what fits it by name.

    Args:
        network: Changed in place.
        source: A state dict, or a checkpoint that holds one (see `find_state_dict`), of a whole network or of a
            backbone alone.
        trained: The normalisation of pixels that a backbone was trained with, where it is not the network's own; its
            patch embedding is then converted.

    Returns:
        What was taken and what was not.

    Raises:
        WeightsError: Not one block fits, values that are not finite, or the normalisation cannot be converted; nothing
            was changed.
    """
    found = find_state_dict(source, "the source") if source else StateDict({})
    unwrapped = found.tensors
    if trained is not None and any(name.startswith("backbone.") for name in unwrapped):
        raise WeightsError("a whole network has the normalisation of its family; that of pixels is said of backbones")
    tensors, notes = _named_like(network, unwrapped)
    notes = [*found.notes, *notes]
    targets = dict(network.named_parameters())
    plan: dict[str, Tensor] = {}
    resized = []
    for name, target in targets.items():
        value = tensors.get(name)
        if value is None:
            continue
        if value.shape != target.shape:
            value = _fitted(name, value.float(), target)
            if value is None:
                continue
            resized.append(name)
        plan[name] = value
    if not any(".blocks." in name and name.endswith(("mlp.fc1.weight", "project.weight")) for name in plan):
        raise WeightsError(_none_fits(tensors, targets))
    if broken := [name for name, value in plan.items() if not bool(torch.isfinite(value).all())]:
        raise WeightsError(f"values of the source are not finite, in {listed(broken)}: it is damaged, or went astray")
    notes += _renormalised(network, plan, trained)
    for name, value in plan.items():
        targets[name].data.copy_(value)
    return StartReport(
        loaded=tuple(n for n in plan if n not in resized),
        resized=tuple(resized),
        fresh=tuple(n for n in targets if n not in plan),
        unused=tuple(n for n in tensors if n not in plan),
        notes=tuple(notes),
    )


def _none_fits(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> str:
    """Why a source cannot start a network: shapes, where names are alike, else names."""
    told = "none of the blocks fits this network: the source belongs to another architecture or width"
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} in the source and {tuple(target.shape)} in the network"
        for name, target in targets.items()
        if name in tensors and tensors[name].shape != target.shape
    ]
    if shapes:
        return f"{told} ({'; '.join(shapes[:3])})"
    return f"{told} (its tensors are called {listed(tensors)}; the network's {listed(targets)})"


def _renormalised(network: ClickNetwork, plan: dict[str, Tensor], trained: Normalisation | None) -> list[str]:
    """Converts the planned patch embedding from the source's normalisation to the network's.

    It comes last, so that the network computes what the (resized) source computes on pixels of its own normalisation.
    """
    own = Normalisation(network.PIXEL_MEAN, network.PIXEL_STD)
    if trained is None or trained == own:
        return []
    told = f"mean {_listed(trained.mean)} and standard deviation {_listed(trained.std)}"
    weight, bias = f"{_PATCHES}.weight", f"{_PATCHES}.bias"
    if weight not in plan or bias not in plan:
        raise WeightsError(
            f"pixels normalised with {told} belong to a ViT's or Swin's patch embedding, and none of the source fits "
            "this network; other first layers cannot be converted"
        )
    plan[weight], plan[bias] = renormalise(plan[weight], plan[bias], trained, own)
    return [f"patch embedding converted from pixels of {told}"]


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


def _named_like(network: ClickNetwork, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A backbone's names become those of the network; a whole network's stay. With notes of what was converted."""
    if any(name.startswith("backbone.") for name in tensors):
        return tensors, []
    if isinstance(network.config, SwinConfig):
        tensors = _downsample_at_stage_end(tensors)
    if isinstance(network.config, HybridConfig):
        tensors = {f"trunk.{name}": value for name, value in _frozen_batch_norms(tensors).items()}
    tensors, scaled = fold_layer_scale(tensors)
    notes = [f"LayerScale folded into {scaled} layers"] if scaled else []
    return {f"backbone.{name}": value for name, value in tensors.items()}, notes


_LITE_CONVS = {
    "_conv_stem": ("_bn0", "stem"),
    "_expand_conv": ("_bn0", "expand"),
    "_depthwise_conv": ("_bn1", "depthwise"),
    "_project_conv": ("_bn2", "project"),
}
_BATCH_NORM_EPS = 1e-3  # of EfficientNet


def _frozen_batch_norms(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite's convolutions, with the scale and shift that their batch norms come to when frozen."""
    converted: dict[str, Tensor] = {}
    for name, value in tensors.items():
        prefix, _, conv = name.removesuffix(".weight").rpartition(".")
        if conv not in _LITE_CONVS:
            continue
        norm, ours = _LITE_CONVS[conv]
        before = f"{prefix}." if prefix else ""
        weight, bias, mean, variance = (
            tensors.get(f"{before}{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        if weight is None or bias is None or mean is None or variance is None:
            continue
        scale = weight / (variance + _BATCH_NORM_EPS).sqrt()
        target = f"{before.removeprefix('_')}{ours}"
        converted |= {f"{target}.weight": value, f"{target}.scale": scale, f"{target}.bias": bias - mean * scale}
    return converted


def _downsample_at_stage_end(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A downsampling belongs in timm to the stage it leads to, here and in Microsoft's code to the one before."""
    if any(name.startswith("layers.0.downsample.") for name in tensors):
        return tensors
    moved = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        moved[".".join(parts)] = value
    return moved


def _fitted(name: str, value: Tensor, target: Tensor) -> Tensor | None:
    """Resizes what has a spatial meaning; None for what does not fit."""
    if name.endswith("pos_embed") and value.shape[2] == target.shape[2]:
        side = math.isqrt(target.shape[1])
        extra = value.shape[1] - math.isqrt(value.shape[1]) ** 2  # 1 with a class token, 0 without
        grid = resize_position_embedding(value[:, extra:], side, side).flatten(1, 2)
        if target.shape[1] == side**2:
            return grid
        head = value[:, :1] if extra else target[:, :1]
        return F.pad(grid, (0, 0, 1, 0)) + F.pad(head, (0, 0, 0, grid.shape[1]))
    if name.endswith("patch_embed.proj.weight") and value.shape[:2] == target.shape[:2]:
        return resample_patches(value, target.shape[2], target.shape[3])
    if name.endswith("relative_position_bias_table") and value.shape[1] == target.shape[1]:
        old, new = math.isqrt(value.shape[0]), math.isqrt(target.shape[0])
        table = value.T.reshape(1, -1, old, old)
        return F.interpolate(table, size=(new, new), mode="bicubic", align_corners=False).flatten(2)[0].T
    return None
