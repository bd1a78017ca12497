"""What a run begins with: weights of a whole network, or a pretrained backbone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from icmformer.errors import WeightsError
from icmformer.models import ClickNetwork, build_network
from icmformer.models.config import ViTConfig
from icmformer.weights import RANDOM_PREFIX, load, locate
from icmformer.weights.quantise import unpack
from icmformer.weights.state_dicts import find_state_dict
from icmformer.weights.store import open_safetensors
from icmformer.weights.unpickle import TorchFile, not_weights
from icmformer.weights.vit_backbones import CENTRED, Normalisation, read_google_vit
from icmformer.weights.warm_start import warm_start

from .initialisation import initialise_as_published
from .timm_backbones import PREFIX, declared_normalisation, pretrained

AUGREG_PREFIX = "augreg:"
"""What goes before the file of a backbone that was trained with mean and standard deviation 0.5, as AugReg's were."""

_LISTED = 8
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of timm's files on its hub, where `config.json` beside them says how they were trained."""


def starting_network(
    config: str | Mapping[str, Any], source: str, recipe: Literal["own", "published"] = "own"
) -> tuple[ClickNetwork, str]:
    """Builds a network and warm-starts it.

    Args:
        config: As `build_network` takes it.
        source: A backbone's checkpoint (timm, MAE, DINO, DINOv2, Swin, EfficientNet-Lite, Google's `.npz`) by path or
            by its name in the cache folder, `augreg:` and such a file, `timm:` and one of timm's names, or a name or
            path of weights.
        recipe: Of the training: it says how parameters begin that the source does not fill.

    Returns:
        The network and lines that tell what was taken and how.

    Raises:
        WeightsError: Nothing there, or nothing of it fits.
    """
    network = build_network(config)
    if recipe == "published":
        initialise_as_published(network)
    tensors, trained, decided = _read(source)
    report = warm_start(network, tensors, trained)
    told = f"starts from {source}: {len(report.loaded)} parameters taken, {len(report.resized)} resized, "
    told += f"{len(report.fresh)} fresh; {len(report.unused)} of the source unused"
    told += "".join(f"\n{note}" for note in (*decided, *report.notes))
    if trained is None and isinstance(network.config, ViTConfig) and any(n.startswith("neck.") for n in report.fresh):
        told += "\npixels taken to be normalised by ImageNet's mean and standard deviation, as MAE's and DINO's are; "
        told += f"for a file of AugReg write {AUGREG_PREFIX}FILE"
    bare = report.bare_blocks
    if bare:
        told += f"\nblocks of the backbone that it does not fill: {len(bare)} parameters, {', '.join(bare[:_LISTED])}"
        told += ", ..." if len(bare) > _LISTED else ""
    return network, told


def _read(source: str) -> tuple[Mapping[str, Tensor], Normalisation | None, tuple[str, ...]]:
    """The tensors that a source stands for, the pixels' normalisation that they are known by, and what was decided."""
    if source.startswith(PREFIX):
        return (*pretrained(source.removeprefix(PREFIX)), ())
    name = source.removeprefix(AUGREG_PREFIX)
    said = CENTRED if name != source else None
    path = Path(name)
    if not path.is_file() and (name.startswith(RANDOM_PREFIX) or not (path := locate(name)).is_file()):
        if said:
            raise WeightsError(f"{AUGREG_PREFIX} goes before a backbone's file, which {name} is not")
        return load(name).state_dict, None, ()
    if path.suffix == ".npz":
        return read_google_vit(path), CENTRED, ()
    declared = _declared(path)
    if said and declared and declared != said:
        raise WeightsError(f"{path.with_name('config.json')} has another mean and std; leave {AUGREG_PREFIX} out")
    tensors, notes = _backbone(path)
    return tensors, said or declared, notes


def _declared(path: Path) -> Normalisation | None:
    """What timm's own description beside a file from its hub says."""
    beside = path.with_name("config.json")
    if path.name not in _HUB_FILES or not beside.is_file():
        return None
    try:
        description = json.loads(beside.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{beside} cannot be read ({error}); get it again, or move it away") from error
    return declared_normalisation(description.get("pretrained_cfg")) if isinstance(description, dict) else None


def _backbone(path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """A checkpoint's state dict, whatever wraps it, and notes of what was decided; nothing in the file is run."""
    if path.suffix == ".safetensors":
        with open_safetensors(path) as tensors:
            found = find_state_dict(tensors, str(path))
            return unpack(found.tensors), found.notes
    if zipfile.is_zipfile(path):
        file = TorchFile(path)
        found = find_state_dict(file.content, str(path))
        return {name: file.read(tensor) for name, tensor in found.tensors.items()}, found.notes
    found = find_state_dict(_old_torch_file(path), str(path))
    return found.tensors, found.notes


def _old_torch_file(path: Path) -> object:
    """What torch wrote before 1.6, several pickles in a row; how another file fails depends on its first bytes."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        told = not_weights(path) or "it is cut short, damaged, or something else; get it again"
        raise WeightsError(f"{path} is not a file of weights (.pth, .safetensors, .npz): {told}") from error
