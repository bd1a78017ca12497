"""How the numbers of weights are stored: as they are, as fp16, or as bytes with a scale a row.

The third is for the disk alone: the numbers are fp32 again as soon as they are read. A matrix or kernel `NAME` becomes
int8 with one fp32 scale for each row (of its first dimension), `NAME.scale`, such that the row's largest value is 127;
vectors, tensors of few numbers and embeddings of positions stay fp32. The error is at most half a step, 1/254 of the
row's largest value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor

Stored = Literal["fp32", "fp16", "int8"]
STORED: tuple[Stored, ...] = get_args(Stored)

_SCALE = ".scale"
_STEPS = 127
_FEW = 1024


def pack(state: Mapping[str, Tensor], stored: Stored) -> dict[str, Tensor]:
    """Tensors as they go to disk, on the CPU; what holds no floats stays as it is.

    Args:
        state: A state dict.
        stored: How floats are stored.

    Raises:
        ValueError: Another word than those of `STORED`.
    """
    if stored not in STORED:
        raise ValueError(f"weights are stored as {', '.join(STORED)}, not {stored!r}")
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        values = tensor.detach().cpu()
        if not values.is_floating_point():
            packed[name] = values.contiguous()
        elif stored == "fp16":
            packed[name] = values.float().half().contiguous()
        elif stored == "int8" and _has_rows(values) and name + _SCALE not in state:
            rows = values.float()
            scale = rows.flatten(1).abs().amax(1) / _STEPS
            steps = rows / torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (rows.ndim - 1))
            packed[name] = steps.round().to(torch.int8).contiguous()
            packed[name + _SCALE] = scale
        else:
            packed[name] = values.float().contiguous()
    return packed


def _has_rows(values: Tensor) -> bool:
    return values.ndim > 1 and values.shape[0] > 1 and values.numel() >= _FEW


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of stored tensors: copies, floats as fp32.

    Raises:
        ValueError: Scales that do not fit their rows.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        scale = packed.get(name + _SCALE)
        if tensor.dtype == torch.int8 and scale is not None:
            if tensor.ndim < 2 or scale.shape != tensor.shape[:1] or not scale.is_floating_point():
                raise ValueError(f"{name + _SCALE} of shape {tuple(scale.shape)} does not fit {tuple(tensor.shape)}")
            state[name] = tensor.float() * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        elif not (name.endswith(_SCALE) and packed.get(name.removesuffix(_SCALE), tensor).dtype == torch.int8):
            state[name] = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
    return state


def stored_form(path: Path | None) -> Stored:
    """How the numbers of a native folder, or of a safetensors file, are stored; fp32 for anything else."""
    file = path / "model.safetensors" if path and path.is_dir() else path
    if file is None or file.suffix != ".safetensors":
        return "fp32"
    with safe_open(file, "pt") as tensors:
        names = tensors.keys()
        kinds = {tensors.get_slice(name).get_dtype() for name in names}
    return "int8" if "I8" in kinds else "fp16" if "F16" in kinds else "fp32"
