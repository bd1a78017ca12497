"""Pretrained backbones of timm, by name: `pip install 'icmformer[timm]'`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor

from icmformer.errors import WeightsError
from icmformer.weights.vit_backbones import Normalisation

PREFIX = "timm:"
"""What a backbone's name begins with where weights are asked for: `timm:vit_base_patch16_224.mae`."""

_TORCHVISION_OPS = ("nms", "qnms")
_declared: list[torch.library.Library] = []


def import_timm() -> ModuleType:
    """timm, also beside a torchvision that was built for another torch, whose import fails for lack of two operators.

    Raises:
        WeightsError: timm is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise WeightsError(f"timm cannot be imported ({error}): pip install 'icmformer[timm]'") from error
    except RuntimeError:
        if _declared:
            raise
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # lives as the object does
    _declared.append(library)
    for name in _TORCHVISION_OPS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:
        raise WeightsError(f"timm cannot be imported ({error}); does its torchvision fit this torch?") from error


def pretrained(name: str) -> tuple[Mapping[str, Tensor], Normalisation | None]:
    """A pretrained model's state dict, and the normalisation that timm knows it was trained with.

    timm downloads the model or finds it in its cache.

    Args:
        name: timm's name with its tag, say `vit_base_patch16_224.mae`, without the prefix.

    Raises:
        WeightsError: No timm, no such model, or it cannot be fetched.
    """
    timm = import_timm()
    if not timm.is_model(name.partition(".")[0]):
        raise WeightsError(f"timm {timm.__version__} has no model {name!r}; timm.list_pretrained() names those it has")
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of its hub client: whatever a network can do
        raise WeightsError(f"timm could not get the weights of {name!r}: {error}") from error
    return model.state_dict(), declared_normalisation(model.pretrained_cfg)


def declared_normalisation(pretrained_cfg: object) -> Normalisation | None:
    """Mean and standard deviation of a `pretrained_cfg` of timm, None where it has none."""
    if not isinstance(pretrained_cfg, Mapping):
        return None
    mean, std = (_three_numbers(pretrained_cfg.get(key)) for key in ("mean", "std"))
    return Normalisation(mean, std) if mean and std and min(std) > 0 else None


def _three_numbers(values: object) -> tuple[float, ...] | None:
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        return None
    return tuple(float(v) for v in values) if all(isinstance(v, (int, float)) for v in values) else None
