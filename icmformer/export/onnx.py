"""A split network as ONNX files, for other runtimes: shapes are fixed, one file pair for each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from icmformer.errors import ConfigError
from icmformer.export.split import split
from icmformer.models import ClickNetwork

OPSET = 17


@dataclass(frozen=True)
class Files:
    """Paths of the exported files.

    Attributes:
        encode: Input `image` (B, 3, H, W), RGB in [0, 1]; outputs `feature_0`, `feature_1`, ...
        decode: Inputs `prompt` (B, 3, H, W), as `ClickNetwork.prompt_map` draws it, and the features; output `logits`.
    """

    encode: Path
    decode: Path


def export_onnx(network: ClickNetwork, batch: int, size: tuple[int, int], folder: Path) -> Files:
    """Writes `encode.onnx` and `decode.onnx`; large networks put their values into files beside them.

    Args:
        network: On the CPU, in evaluation mode.
        batch: Images at a time: 2 for a profile with the mirror pass.
        size: (H, W) of the input.
        folder: An existing folder.

    Raises:
        ConfigError: The `onnx` package is missing.
        InputSizeError: A size that the network cannot take.
    """
    parts = split(network, batch, size)
    names = [f"feature_{i}" for i in range(len(parts.prompt) - 1)]
    files = Files(folder / "encode.onnx", folder / "decode.onnx")
    _export(parts.encoder, (parts.image,), files.encode, ["image"], names)
    _export(parts.decoder, parts.prompt, files.decode, ["prompt", *names], ["logits"])
    return files


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, input_names: list[str], output_names: list[str]
) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of branches on shapes, which are fixed, and of the exporter's age
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=False,  # the newer exporter needs onnxscript, and gains nothing with fixed shapes
                opset_version=OPSET,
                input_names=input_names,
                output_names=output_names,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConfigError(f"the network cannot be exported ({error}); pip install 'icmformer[cpu]'") from error
