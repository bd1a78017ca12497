"""What every backend is to the predictor, and the plainest one."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from icmformer.models import ImageFeatures
from icmformer.timings import Timings

Arithmetic = Literal["fp32", "bf16", "int8"]
"""What a network's products are computed in."""


@cache
def device_lock(device_type: str) -> threading.Lock:
    """One for all passes on the CPU, one for all GPUs of a process: whether TF32 is allowed is a switch for all."""
    return threading.Lock()


class Backend(ABC):
    """Runs the image encoder and the mask decoder of one network.

    Attributes:
        identity: Names runtime, device and arithmetic: features of one backend are of no use to another.
        lock: Held by whoever calls `encode` or `decode`: a pass already uses all of a device.
    """

    identity: Hashable
    lock: threading.Lock

    @abstractmethod
    def encode(self, image: Tensor) -> ImageFeatures:
        """(B, 3, H, W) float32 RGB in [0, 1] on the CPU -> features, wherever they are best kept."""

    @abstractmethod
    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        """Features and a prompt on the CPU, as `ClickNetwork.decode` takes it -> (B, 1, H, W) float32 on the CPU."""

    @contextmanager
    def turn(self, timings: Timings) -> Iterator[None]:
        """Waits for the device (stage `wait`) and holds it for the block."""
        with timings.stage("wait"):
            self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def decode_in_turn(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor, timings: Timings) -> Tensor:
        """As `decode`, once the device is free; adds to the stages `wait` and `decode`."""
        with self.turn(timings), timings.stage("decode"):
            return self.decode(features, prev_mask, points)


class CallableBackend(Backend):
    """Any `network(image, prev_mask, points) -> logits`, called as it is; the features of an image are the image."""

    def __init__(self, network: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self._network = network
        self.identity = "callable"
        self.lock = threading.Lock()

    def encode(self, image: Tensor) -> ImageFeatures:
        return ImageFeatures((image.shape[2], image.shape[3]), (image,))

    @torch.inference_mode()
    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        (image,) = features.tensors
        return self._network(image, prev_mask, points).float().cpu()
