"""`icmformer export`: a network as ONNX files, with a report of how well they agree with torch."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icmformer.errors import ConfigError, IcmformerError
from icmformer.export.onnx import OPSET, Files, export_onnx
from icmformer.inference.backends.openvino_import import imported
from icmformer.models import ClickNetwork, network_config
from icmformer.weights import load

TOLERANCE = 1e-4
"""Largest difference of a logit that counts as the same network."""


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "export",
        help="write a network as ONNX files",
        description="Writes encode.onnx (image -> features), decode.onnx (prompt map and features -> logits) and "
        "export.json, which describes them and says how far their logits are from torch's on a random image. Needs "
        "the [cpu] extra.",
    )
    parser.add_argument("weights", help="name or path of the weights")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--batch", type=int, default=1, help="batch size (1); the profile exact runs image and mirror image as 2"
    )
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the square input (the weights' own)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.batch < 1:
        raise ConfigError(f"--batch starts at 1, got {args.batch}")
    if args.size is not None and args.size < 1:
        raise ConfigError(f"--size must be positive, got {args.size}")
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"{args.output} is a file; --output takes a folder")
    weights = load(args.weights)
    network = weights.build()
    side = args.size or network_config(weights.config).img_size
    args.output.mkdir(parents=True, exist_ok=True)
    files = export_onnx(network, args.batch, (side, side), args.output)
    difference = _difference(network, files, args.batch, side)
    about = {
        "weights": weights.name,
        "sha256": weights.sha256,
        "batch": args.batch,
        "size": [side, side],
        "opset": OPSET,
        "inputs": {
            "image": "encode.onnx: (batch, 3, height, width) float32, RGB in [0, 1], resized to the size above",
            "prompt": "decode.onnx: (batch, 3, height, width) float32: probabilities of the previous mask, 1 within "
            "5 pixels of a positive click, 1 within 5 pixels of a negative click",
            "feature_N": "decode.onnx: the outputs of encode.onnx, by name",
        },
        "output": f"logits (batch, 1, height, width); the mask is sigmoid(logits) > {weights.serving.threshold}",
        **weights.serving.as_mapping(),
        "largest_difference_of_a_logit": difference,
    }
    (args.output / "export.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"{files.encode}, {files.decode}: {args.batch} x {side} x {side} pixels, opset {OPSET}")
    if difference is None:
        print("not compared with torch: pip install 'icmformer[cpu]' installs OpenVINO, which it needs")
        return 0
    print(f"largest difference of a logit from torch's: {difference:.1e} (OpenVINO, fp32)")
    if difference > TOLERANCE:
        raise IcmformerError(f"the exported network differs from torch's by {difference:.1e}, over {TOLERANCE:.0e}")
    return 0


def _difference(network: ClickNetwork, files: Files, batch: int, side: int) -> float | None:
    """The largest difference of a logit between the files and torch; None without a runtime for them."""
    if importlib.util.find_spec("openvino") is None:
        return None
    openvino = imported()

    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, side, side, generator=generator)
    previous = torch.rand(batch, 1, side, side, generator=generator)
    points = torch.tensor([[[0.4 * side, 0.5 * side, 0], [0.8 * side, 0.2 * side, 1]]]).expand(batch, -1, -1)
    with torch.inference_mode():
        expected = network(image, previous, points)
        prompt = network.prompt_map(previous, points)
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    encode, decode = (core.compile_model(core.read_model(p), "CPU", options) for p in (files.encode, files.decode))
    features = [np.array(value) for value in encode([image.numpy()]).values()]
    (logits,) = decode([prompt.numpy(), *features]).values()
    return float(np.abs(np.asarray(logits) - expected.numpy()).max())
