"""Serving profiles, and the devices they run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch

from icmformer.errors import ConfigError, DeviceError
from icmformer.inference.backends import openvino as openvino_backend
from icmformer.inference.backends.base import Arithmetic
from icmformer.inference.prompts import BoxStart
from icmformer.processor import instruction_sets


@dataclass(frozen=True)
class Profile:
    """Speed against fidelity to the published path.

    Attributes:
        name: `exact` or `fast`.
        flip: See the mirror image too and average the logits.
        low_precision: Compute in bf16 or int8 where that is faster (see `find_arithmetic`), and in TF32 on CUDA.
        box: How a box becomes a first guess; docs/prediction.md has the measurements behind it.
    """

    name: str
    flip: bool
    low_precision: bool
    box: BoxStart = field(default_factory=BoxStart)


PROFILES: Mapping[str, Profile] = {
    "exact": Profile("exact", flip=True, low_precision=False),
    "fast": Profile("fast", flip=False, low_precision=True),
}
"""`exact` is the published path; `fast` drops the mirror pass and the precision that serving does not need."""


def find_profile(name: str | Profile) -> Profile:
    """A profile by name.

    Raises:
        ConfigError: There is no such profile.
    """
    if isinstance(name, Profile):
        return name
    if not isinstance(name, str) or name not in PROFILES:
        raise ConfigError(f"unknown profile {name!r}; there are {' and '.join(PROFILES)}")
    return PROFILES[name]


def find_device(name: str) -> torch.device:
    """A device by name; `auto` is the first GPU where there is one, else the CPU.

    Raises:
        DeviceError: A device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; "
            "use --device cpu, or install a CUDA build of torch (TORCH_INDEX_URL)"
        )
    return device


RUNTIMES = ("auto", "torch", "openvino")


def find_runtime(name: str, device: torch.device) -> str:
    """The runtime for a device; `auto` is OpenVINO on a CPU where it is installed, else torch.

    Raises:
        ConfigError: There is no such runtime, or it does not go with the device.
    """
    if name not in RUNTIMES:
        raise ConfigError(f"unknown runtime {name!r}; there are {', '.join(RUNTIMES)}")
    if name == "auto":
        return "openvino" if device.type == "cpu" and openvino_backend.available() else "torch"
    if name == "openvino" and device.type != "cpu":
        raise ConfigError(f"the openvino runtime runs on the CPU, not on {device}: use torch, or --device cpu")
    return name


PRECISIONS = ("auto", "fp32", "bf16", "int8")
_ELSE = "; or set ICMFORMER_PRECISION=auto"


def find_arithmetic(asked: str, profile: Profile, device: torch.device, runtime: str, ranges: bool) -> Arithmetic:
    """What a profile's network is computed in.

    Args:
        asked: `auto`, `fp32`, `bf16` or `int8`; counts for profiles of low precision, others are fp32.
        profile: The profile.
        device: Where it runs.
        runtime: `torch` or `openvino`.
        ranges: Whether the weights have what int8 needs.

    Returns:
        For `auto` bf16 where the device has it, else int8 where the processor has VNNI, the runtime is OpenVINO and the
        weights have ranges, else fp32. docs/performance.md has the measurements behind it.

    Raises:
        ConfigError: There is no such precision, or it cannot be had here.
    """
    if asked not in PRECISIONS:
        raise ConfigError(f"ICMFORMER_PRECISION={asked:.20} is unknown; there are {', '.join(PRECISIONS)}")
    if not profile.low_precision:
        return "fp32"
    if asked == "int8" and runtime != "openvino":
        raise ConfigError(
            f"ICMFORMER_PRECISION=int8 needs a CPU and the openvino runtime, not {runtime} on {device}{_ELSE}"
        )
    if asked == "int8" and not ranges:
        measure = "measure them (python -m icmformer.applications.training.quantise --help)"
        raise ConfigError(f"ICMFORMER_PRECISION=int8 needs ranges, which these weights do not have: {measure}{_ELSE}")
    if asked == "bf16" and not has_bf16(device):
        raise ConfigError(f"ICMFORMER_PRECISION=bf16: this device does not compute in bf16{_ELSE}")
    if asked == "auto" and has_bf16(device):
        return "bf16"
    if asked == "auto" and runtime == "openvino" and ranges and "VNNI" in instruction_sets():
        return "int8"
    return "fp32" if asked == "auto" else cast(Arithmetic, asked)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run at speed, rather than by emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
