"""The files of a version of weights in a store: copied, or converted, and compared with what they were made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from icmformer.disk import flush
from icmformer.weights.search_path import CONFIG_FILE, MODEL_FILE, SUMS_FILE
from icmformer.weights.store import Weights, save

CONVERTED_FROM = "added_from_sha256"
"""What a converted version says it was made from."""
_FILES = (CONFIG_FILE, MODEL_FILE, SUMS_FILE)


def write_version(weights: Weights, folder: Path) -> None:
    """Writes weights into a new folder, which is on the disk afterwards: files of the native form as they are."""
    if weights.path is not None and weights.path.is_dir():
        folder.mkdir()
        for name in _FILES:
            shutil.copyfile(weights.path / name, folder / name)
    else:
        about = {**weights.about, CONVERTED_FROM: weights.sha256}
        save(folder, weights.config, weights.state_dict, weights.name, about, "fp32", weights.serving, weights.int8)
    for name in _FILES:
        flush(folder / name)
    flush(folder)


def are_equal(one: Weights, other: Weights) -> bool:
    """Whether two have the same network, values, serving defaults and int8 ranges."""
    return (one.config, one.serving, one.int8) == (other.config, other.serving, other.int8) and all(
        torch.equal(value, other.state_dict[name]) for name, value in one.state_dict.items()
    )


def model_sum(folder: Path) -> str:
    """The checksum of a version's model file, as its SHA256SUMS says; empty where that says nothing of it."""
    lines = (folder / SUMS_FILE).read_text(errors="replace").split("\n")
    return next((line.split(" ")[0] for line in lines if line.endswith(f" {MODEL_FILE}")), "")
