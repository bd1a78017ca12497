"""What pretrained plain ViTs have that the networks here do not: each is converted, exactly where that is possible.

DINOv2 scales what every block adds (LayerScale) and has patches of 14 pixels; AugReg's ViTs were trained on pixels in
[-1, 1], and Google publishes them as arrays in Flax's naming.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from icmformer.errors import WeightsError

_LAYER_SCALE = re.compile(r"(.*\bblocks\.\d+\.)ls([12])\.gamma")
_SCALED = {"1": "attn.proj", "2": "mlp.fc2"}


class Normalisation(NamedTuple):
    """How pixels in [0, 1] become a network's input: `(pixel - mean) / std`, for R, G and B."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CENTRED = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""To [-1, 1]: AugReg's, and that of all ViTs in Google's `.npz` files."""


def fold_layer_scale(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Multiplies LayerScale's factors into the layers before them: gamma (W x + b) = (gamma W) x + gamma b.

    Args:
        tensors: A state dict in timm's or DINOv2's naming (`blocks.N.ls1.gamma`, `blocks.N.ls2.gamma`).

    Returns:
        The state dict without factors, and how many layers took one over.
    """
    folded, count = dict(tensors), 0
    for name, gamma in tensors.items():
        found = _LAYER_SCALE.fullmatch(name)
        layer = found[1] + _SCALED[found[2]] if found else ""
        if f"{layer}.weight" not in tensors or f"{layer}.bias" not in tensors:
            continue
        weight, bias, factors = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"], gamma.float()
        folded |= {f"{layer}.weight": weight.float() * factors[:, None], f"{layer}.bias": bias.float() * factors}
        del folded[name]
        count += 1
    return folded, count


def resample_patches(kernel: Tensor, height: int, width: int) -> Tensor:
    """Fits a patch embedding to another patch size by the pseudo-inverse of resizing (PI-resize, FlexiViT, 2023).

    The new kernel answers to a resized patch (bicubic, antialiased) as the old one does to the patch itself: exactly
    where patches grow, with the least squared error over white noise where they shrink.

    Args:
        kernel: (out, in, h, w).
        height: Rows wanted.
        width: Columns wanted.

    Returns:
        (out, in, height, width), float32.
    """
    rows, columns = kernel.shape[2:]
    pixels = torch.eye(rows * columns, dtype=torch.float64).view(-1, 1, rows, columns)
    resized = F.interpolate(pixels, (height, width), mode="bicubic", align_corners=False, antialias=True).flatten(1)
    inverse: Tensor = torch.linalg.pinv(resized)
    return (kernel.double().flatten(2) @ inverse.T).view(*kernel.shape[:2], height, width).float()


def renormalise(weight: Tensor, bias: Tensor, trained: Normalisation, fed: Normalisation) -> tuple[Tensor, Tensor]:
    """A patch embedding for pixels normalised in another way: the same tokens for every image without padding.

    Args:
        weight: (out, 3, h, w).
        bias: (out,).
        trained: The normalisation that it was trained with.
        fed: The one that it is to get.

    Returns:
        Weight and bias for `fed`, float32.
    """
    mean, std, fed_mean, fed_std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (*trained, *fed)
    )
    wide = weight.double()
    shift = (wide * (fed_mean - mean) / std).sum((1, 2, 3))
    return (wide * fed_std / std).float(), (bias.double() + shift).float()


def read_google_vit(path: Path) -> dict[str, Tensor]:
    """Reads a ViT as Google's vision_transformer publishes it (`.npz`, AugReg among them); nothing in it is run.

    Returns:
        A state dict in timm's naming, without the classifier; its normalisation is `CENTRED`.

    Raises:
        WeightsError: Not such a file, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if not name.startswith(("head/", "pre_logits/"))}
        converted = _in_timms_naming(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} cannot be read as a ViT of Google's vision_transformer ({type(error).__name__}: {error}); "
            "download it again"
        ) from error
    return {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in converted.items()}


def _in_timms_naming(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Flax has inputs before outputs and keeps heads apart; torch's layers have outputs first and one axis of them."""
    width = len(arrays["embedding/bias"])
    state = {
        "cls_token": arrays["cls"],
        "pos_embed": arrays["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": arrays["embedding/kernel"].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": arrays["embedding/bias"],
        "norm.weight": arrays["Transformer/encoder_norm/scale"],
        "norm.bias": arrays["Transformer/encoder_norm/bias"],
    }
    depth = len({name.split("/")[1] for name in arrays if name.startswith("Transformer/encoderblock_")})
    for number in range(depth):
        flax, ours = f"Transformer/encoderblock_{number}", f"blocks.{number}"
        attention, mlp = f"{flax}/MultiHeadDotProductAttention_1", f"{flax}/MlpBlock_3"
        for norm, place in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            state[f"{ours}.{norm}.weight"] = arrays[f"{flax}/{place}/scale"]
            state[f"{ours}.{norm}.bias"] = arrays[f"{flax}/{place}/bias"]
        parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
        state[f"{ours}.attn.qkv.weight"] = np.concatenate([arrays[f"{p}/kernel"].reshape(width, -1).T for p in parts])
        state[f"{ours}.attn.qkv.bias"] = np.concatenate([arrays[f"{p}/bias"].reshape(-1) for p in parts])
        state[f"{ours}.attn.proj.weight"] = arrays[f"{attention}/out/kernel"].reshape(-1, width).T
        state[f"{ours}.attn.proj.bias"] = arrays[f"{attention}/out/bias"]
        for layer, place in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            state[f"{ours}.mlp.{layer}.weight"] = arrays[f"{mlp}/{place}/kernel"].T
            state[f"{ours}.mlp.{layer}.bias"] = arrays[f"{mlp}/{place}/bias"]
    return state
