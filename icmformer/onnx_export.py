"""A network's two halves as ONNX files, for other runtimes: shapes are fixed, one file pair for each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from icmformer.errors import ConfigError
from icmformer.models import ClickNetwork, ImageFeatures

OPSET = 17


@dataclass(frozen=True)
class Halves:
    """Paths of the exported files.

    Attributes:
        encode: Input `image` (B, 3, H, W), RGB in [0, 1]; outputs `feature_0`, `feature_1`, ...
        decode: Inputs `prompt` (B, 3, H, W), as `ClickNetwork.prompt_map` draws it, and the features; output `logits`.
    """

    encode: Path
    decode: Path


class _Encode(nn.Module):
    def __init__(self, network: ClickNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.network.encode_image(image).tensors


class _Decode(nn.Module):
    def __init__(self, network: ClickNetwork, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, prompt: Tensor, *features: Tensor) -> Tensor:
        return self.network.decode_map(ImageFeatures(self.size, features), prompt)


def export_halves(network: ClickNetwork, batch: int, size: tuple[int, int], folder: Path) -> Halves:
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
    network.check_size(*size)
    with torch.no_grad():
        image = torch.zeros(batch, 3, *size)
        tensors = network.encode_image(image).tensors
    names = [f"feature_{i}" for i in range(len(tensors))]
    halves = Halves(folder / "encode.onnx", folder / "decode.onnx")
    _export(_Encode(network), (image,), halves.encode, ["image"], names)
    _export(_Decode(network, size), (torch.zeros_like(image), *tensors), halves.decode, ["prompt", *names], ["logits"])
    return halves


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, input_names: list[str], output_names: list[str]
) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of branches on shapes, which are fixed, and of the exporter's age
            torch.onnx.export(
                module.eval(),
                inputs,
                str(path),
                dynamo=False,  # the newer exporter needs onnxscript, and gains nothing with fixed shapes
                opset_version=OPSET,
                input_names=input_names,
                output_names=output_names,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConfigError(f"the network cannot be exported ({error}); pip install 'icmformer[cpu]'") from error
