"""What figures were measured on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from icmformer.inference.backends import openvino as openvino_backend
from icmformer.processor import instruction_sets


def machine(device: str = "cpu") -> str:
    """The processor with its instruction sets, and the versions that matter."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    if sets := instruction_sets():
        name += f" with {', '.join(sets)}"
    return f"{name}; torch {torch.__version__}, OpenVINO {'yes' if openvino_backend.available() else 'not installed'}"
