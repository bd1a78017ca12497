"""torch as the runtime, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from icmformer.errors import ConfigError, DeviceMemoryError
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
        """Applies it to the block; on CUDA the caller must hold the device's lock: some of it are process-wide flags.

        On CUDA, cuDNN takes none of its algorithms that add up in an order of chance: a reply depends on its request
        alone.
        """
        with ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(_flags(self.tf32))
            # switched off where it is not wanted: a caller's own autocast must not change a reply
            low = torch.autocast(device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None)
            stack.enter_context(low)
            yield


@contextmanager
def _flags(tf32: bool) -> Iterator[None]:
    """Whether TF32 is allowed; and the same algorithm of cuDNN each time, one that gives the same bits each time."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that a device has no memory left: its own, cuBLAS's or cuDNN's."""
    return isinstance(error, torch.OutOfMemoryError) or "STATUS_ALLOC_FAILED" in str(error)


def from_compiler(error: Exception) -> bool:
    """Whether an error says that torch could not compile."""
    return type(error).__module__.startswith(("torch._inductor", "torch._dynamo"))


def first_line(error: Exception) -> str:
    """What an error of torch says first, of what can be pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def within_memory(work: Callable[[], T]) -> T:
    """What some work on a device gives.

    Raises:
        DeviceMemoryError: The device has no memory left for it.
    """
    try:
        return work()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        told = ". ".join(str(error).split(". ")[:3])
    # raised out here, for the first error keeps alive what the work had allocated
    raise DeviceMemoryError(
        f"{told}: end other programs on the GPU (nvidia-smi lists them), take smaller weights, or lower "
        "ICMFORMER_BATCH or ICMFORMER_FEATURE_CACHE_MB"
    )


class TorchBackend(Backend):
    """torch itself.

    Args:
        network: In evaluation mode, on `device`.
        device: Where it runs.
        precision: Arithmetic.
        compiled: Let torch compile encoder and decoder, on CUDA into CUDA graphs; the first pass of a shape takes a
            minute.

    Raises:
        DeviceMemoryError: From `encode` and `decode`: the device has no memory left for a pass.
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
        self._thread: ThreadPoolExecutor | None = None
        if compiled:
            self._encode, self._decode = _compiled(self._encode, device), _compiled(self._decode, device)
            self._thread = _compiled_thread()

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

        thread = self._thread
        if thread is None:
            return within_memory(pure)
        try:
            return within_memory(lambda: thread.submit(pure).result())
        except Exception as error:
            if not from_compiler(error):
                raise
            raise ConfigError(
                f"torch cannot compile this network here ({first_line(error)}); install a C++ compiler, or set "
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


@cache
def _compiled_thread() -> ThreadPoolExecutor:
    """The thread of all compiled networks of a process.

    CUDA graphs belong to the thread that captured them, and older versions of torch keep what they know of them in the
    first thread that compiles (pytorch/pytorch#123177); requests come in threads of their own.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="compiled")


def _compiled(function: Callable[P, T], device: torch.device) -> Callable[P, T]:
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    made: Callable[P, T] = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
    return made
