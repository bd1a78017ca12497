"""`icmformer doctor`: does this installation work, and how?"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from icmformer import __version__
from icmformer.errors import IcmformerError
from icmformer.inference.engine import Engine
from icmformer.inference.profiles import find_device, has_bf16
from icmformer.settings import Settings
from icmformer.types import Click

_PACKAGES = ("torch", "openvino", "numpy", "opencv-python-headless", "pillow", "safetensors")


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "doctor",
        help="check this installation",
        description="Checks packages, device and weights, and segments a test image. Exit status 1 if anything fails.",
    )
    parser.add_argument("--weights", help="name or path (ICMFORMER_WEIGHTS, else starter)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (ICMFORMER_DEVICE, else auto)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    print(f"icmformer {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in _PACKAGES:
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} (not installed as a package)")
    settings = Settings.from_environment()
    print("settings")
    for field in dataclasses.fields(settings):
        print(f"  {field.name}: {getattr(settings, field.name)}")
    checks: list[tuple[str, Callable[[], str]]] = [
        ("device", lambda: _device(args.device or settings.device)),
        (
            "segment",
            lambda: _segment(settings, args.weights or settings.weights, args.device or settings.device),
        ),
    ]
    failed = 0
    for name, check in checks:
        try:
            print(f"{name}: {check()}")
        except IcmformerError as error:
            failed += 1
            print(f"{name}: FAILED: {error}", file=sys.stderr)
    print("all is well" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


def _device(name: str) -> str:
    device = find_device(name)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device} ({kind}), bf16 {'yes' if has_bf16(device) else 'no'}"


def _segment(settings: Settings, weights: str, device: str) -> str:
    engine = Engine.from_weights(weights, device, settings.profile, runtime=settings.runtime, settings=settings)
    rows, columns = np.mgrid[:240, :320]
    disk = (rows - 120) ** 2 + (columns - 160) ** 2 < 60**2
    image = np.where(disk[..., None], np.array((200, 60, 50)), np.array((60, 120, 70))).astype(np.uint8)
    engine.segment(image, [Click(30, 30)])  # lazy initialisation is not part of the time
    result = engine.segment(image, [Click(160, 120)])
    union = (result.mask | disk).sum()
    overlap = float((result.mask & disk).sum() / union)
    told = f"{engine.weights.name}, {settings.profile}, {engine.runtime}"
    if engine.runtime == "openvino" and (settings.batch > 1 or settings.compile):
        told += " (ICMFORMER_BATCH and ICMFORMER_COMPILE have no effect with it)"
    return f"{told}: a disk found with IoU {overlap:.2f} in {result.timings['total']:.0f} ms"
