"""Runs a network on one crop: whole, or in two steps with the image's features kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from icmformer.inference.cache import Cache
from icmformer.models import ClickNetwork, ImageFeatures
from icmformer.telemetry import Timings

NetworkCallable = Callable[[Tensor, Tensor, Tensor], Tensor]


class Runner(Protocol):
    """From a crop and its prompt to logits."""

    def logits(
        self, key: Hashable, image: Callable[[], Tensor], prev_mask: Tensor, points: Tensor, timings: Timings
    ) -> Tensor:
        """Runs the network.

        Args:
            key: Names the content of the image tensor.
            image: Makes the (B, 3, H, W) image tensor; called only when it is needed.
            prev_mask: (B, 1, H, W).
            points: (B, 2N, 3).
            timings: Where stages are added.

        Returns:
            (B, 1, H, W) float32 logits on the CPU.
        """
        ...


class WholeRunner:
    """Calls any callable with a network's signature, without caches."""

    def __init__(self, network: NetworkCallable) -> None:
        self._network = network

    def logits(
        self, key: Hashable, image: Callable[[], Tensor], prev_mask: Tensor, points: Tensor, timings: Timings
    ) -> Tensor:
        with timings.stage("crop"):
            pixels = image()
        with timings.stage("network"), torch.inference_mode():
            return self._network(pixels, prev_mask, points).float().cpu()


@dataclass(frozen=True)
class Precision:
    """Arithmetic of the network.

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
def _device_lock(device_type: str) -> threading.Lock:
    """One for all GPUs of a process: whether TF32 is allowed is a switch for all of them."""
    return threading.Lock()


class SplitRunner:
    """Encodes a crop once and decodes each prompt from the kept features.

    One pass runs at a time on a device: a pass already uses all of it. Hits and misses take the same two steps on the
    same shapes, so they give the same bits.

    Args:
        network: In evaluation mode, on `device`.
        device: Where it runs.
        precision: Arithmetic.
        cache: Keeps features by the crop's key.
        identity: What else the features depend on: names network and arithmetic, so that engines may share a cache.
    """

    def __init__(
        self,
        network: ClickNetwork,
        device: torch.device,
        precision: Precision,
        cache: Cache[ImageFeatures],
        identity: Hashable = None,
    ) -> None:
        self._network = network
        self._device = device
        self._precision = precision
        self._cache = cache
        self._identity = (identity, str(device))
        self._lock = _device_lock(device.type)

    def logits(
        self, key: Hashable, image: Callable[[], Tensor], prev_mask: Tensor, points: Tensor, timings: Timings
    ) -> Tensor:
        features = self.features(key, image, timings)
        with self._pass("decode", timings):
            prompt = prev_mask.to(self._device), points.to(self._device)
            return self._network.decode(features, *prompt).float().cpu()

    def features(self, key: Hashable, image: Callable[[], Tensor], timings: Timings) -> ImageFeatures:
        """The crop's features, from the cache or encoded now."""
        key = (self._identity, key)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        with timings.stage("crop"):
            pixels = image()
        with self._pass("encode", timings):
            features = self._network.encode_image(pixels.to(self._device))
        self._cache.put(key, features)
        return features

    @contextmanager
    def _pass(self, name: str, timings: Timings) -> Iterator[None]:
        with timings.stage("wait"):
            self._lock.acquire()
        try:
            with timings.stage(name), torch.inference_mode(), self._precision.applied(self._device):
                yield
        finally:
            self._lock.release()
