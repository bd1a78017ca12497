"""What a run begins with: weights of a whole network, or a pretrained backbone."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from icmformer.errors import WeightsError
from icmformer.models import ClickNetwork, build_network
from icmformer.weights import load
from icmformer.weights.quantise import unpack
from icmformer.weights.unpickle import load_torch_file
from icmformer.weights.warm_start import warm_start
from training.loop.timm_backbones import PREFIX, pretrained

_LISTED = 8


def starting_network(config: str | Mapping[str, Any], source: str) -> tuple[ClickNetwork, str]:
    """Builds a network and warm-starts it.

    Args:
        config: As `build_network` takes it.
        source: A backbone's checkpoint (timm, MAE, Swin, EfficientNet-Lite), `timm:` and one of timm's names, or a name
            or path of weights.

    Returns:
        The network and a line that tells what was taken.

    Raises:
        WeightsError: Nothing there, or nothing of it fits.
    """
    network = build_network(config)
    path = Path(source)
    tensors: Mapping[str, object]
    if source.startswith(PREFIX):
        tensors = pretrained(source.removeprefix(PREFIX))
    else:
        tensors = _backbone(path) if path.is_file() else load(source).state_dict
    report = warm_start(network, tensors)
    told = f"starts from {source}: {len(report.loaded)} parameters taken, {len(report.resized)} resized, "
    told += f"{len(report.fresh)} fresh; {len(report.unused)} of the source unused"
    bare = report.bare_blocks
    if bare:
        told += f"\nblocks of the backbone that it does not fill: {len(bare)} parameters, {', '.join(bare[:_LISTED])}"
        told += ", ..." if len(bare) > _LISTED else ""
    return network, told


def _backbone(path: Path) -> Mapping[str, object]:
    """A checkpoint's mapping, whatever wraps the state dict; nothing in the file is run."""
    try:
        if path.suffix == ".safetensors":
            return dict(unpack(load_file(path)))
        if zipfile.is_zipfile(path):
            content = load_torch_file(path)
        else:  # torch's format before 1.6
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content
