"""torch as the runtime, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from icmformer.errors import ConfigError
from icmformer.inference.backends.base import Backend, device_lock
from icmformer.models import ClickNetwork, ImageFeatures

P = ParamSpec("P")
T = TypeVar("T")


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


class TorchBackend(Backend):
    """torch itself.

    Args:
        network: In evaluation mode, on `device`.
        device: Where it runs.
        precision: Arithmetic.
        compiled: Let torch compile encoder and decoder, on CUDA into CUDA graphs; the first pass of a shape takes a
            minute.
    """

    def __init__(
        self, network: ClickNetwork, device: torch.device, precision: Precision, compiled: bool = False
    ) -> None:
        self.network = network
        self.identity = ("torch", str(device), str(precision), compiled)
        self.lock = device_lock(device.type)
        self._device = device
        self._precision = precision
        self._encode: Callable[[Tensor], ImageFeatures] = network.encode_image
        self._decode: Callable[[ImageFeatures, Tensor], Tensor] = network.decode_map
        self._thread = None
        if compiled:
            self._encode, self._decode = _compiled(self._encode, device), _compiled(self._decode, device)
            # CUDA graphs belong to the thread that captured them, requests come in threads of their own
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="compiled")

    def encode(self, image: Tensor) -> ImageFeatures:
        return self._run(lambda: self._copied(self._encode(self._upload(image))))

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        def decoded() -> Tensor:
            prompt = self.network.prompt_map(self._upload(prev_mask), self._upload(points))
            return self._decode(features, prompt).float().cpu()

        return self._run(decoded)

    def _run(self, work: Callable[[], T]) -> T:
        def pure() -> T:
            with torch.inference_mode(), self._precision.applied(self._device):
                return work()

        if self._thread is None:
            return pure()
        try:
            return self._thread.submit(pure).result()
        except Exception as error:
            if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ConfigError(
                f"torch cannot compile this network here ({reason[:200]}); install a C++ compiler, or set "
                "ICMFORMER_COMPILE=0"
            ) from error

    def _upload(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; through pinned memory to a GPU, which then copies while the CPU goes on."""
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _copied(self, features: ImageFeatures) -> ImageFeatures:
        """Features that outlive the next pass: a CUDA graph writes into the same memory each time."""
        if self._thread is None or self._device.type != "cuda":
            return features
        return ImageFeatures(features.size, tuple(t.clone() for t in features.tensors))


def _compiled(function: Callable[P, T], device: torch.device) -> Callable[P, T]:
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    made: Callable[P, T] = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
    return made
