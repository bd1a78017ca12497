"""Who does the arithmetic: torch, on a CPU or a GPU. `openvino_backend` is the other one."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from icmformer.models import ClickNetwork, ImageFeatures


class Backend(Protocol):
    """Runs the two halves of one network.

    Attributes:
        identity: Names runtime, device and arithmetic: features of one backend are of no use to another.
        lock: Held by whoever runs a pass: a pass already uses all of a device.
    """

    identity: Hashable
    lock: threading.Lock

    def encode(self, image: Tensor) -> ImageFeatures:
        """(B, 3, H, W) float32 RGB in [0, 1] on the CPU -> features, wherever they are best kept."""
        ...

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        """Features and a prompt on the CPU, as `ClickNetwork.decode` takes it -> (B, 1, H, W) float32 on the CPU."""
        ...


@dataclass(frozen=True)
class Precision:
    """Arithmetic of torch.

    Attributes:
        autocast: Lower-precision type for matrix products and convolutions, or None for fp32.
        tf32: Whether CUDA may round fp32 inputs of matrix products to TF32.
    """

    autocast: torch.dtype | None = None
    tf32: bool = False

    @contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Applies it to the block; on CUDA the caller must hold the device's lock, as TF32 is a process-wide flag."""
        with ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(_tf32(self.tf32))
            # switched off where it is not wanted: a caller's own autocast must not change a reply
            low = torch.autocast(device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None)
            stack.enter_context(low)
            yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@cache
def device_lock(device_type: str) -> threading.Lock:
    """One for all passes on the CPU, one for all GPUs of a process: whether TF32 is allowed is a switch for all."""
    return threading.Lock()


class TorchBackend:
    """torch itself.

    Args:
        network: In evaluation mode, on `device`.
        device: Where it runs.
        precision: Arithmetic.
    """

    def __init__(self, network: ClickNetwork, device: torch.device, precision: Precision) -> None:
        self.network = network
        self.identity: Hashable = ("torch", str(device), str(precision))
        self.lock = device_lock(device.type)
        self._device = device
        self._precision = precision

    def encode(self, image: Tensor) -> ImageFeatures:
        with torch.inference_mode(), self._precision.applied(self._device):
            return self.network.encode_image(image.to(self._device))

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        with torch.inference_mode(), self._precision.applied(self._device):
            prompt = prev_mask.to(self._device), points.to(self._device)
            return self.network.decode(features, *prompt).float().cpu()
