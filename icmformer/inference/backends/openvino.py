"""OpenVINO as the runtime on CPUs: the same split network, two to three times as fast as torch there.

None of torch's parallel operations is used around it: their threads go on spinning for a while, on the cores that
OpenVINO needs.

Networks are converted on first use, for one batch and input size at a time, and kept in the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from icmformer.errors import ConfigError
from icmformer.export.split import split
from icmformer.inference.backends.base import Arithmetic, Backend, device_lock
from icmformer.inference.backends.int8 import quantise
from icmformer.inference.backends.openvino_import import imported
from icmformer.layers.clickmap import draw_disks
from icmformer.models import ImageFeatures
from icmformer.version import __version__
from icmformer.weights import Weights
from icmformer.weights.activation_ranges import PARTS

Shape = tuple[int, int, int]
_KEPT = 4  # compiled shapes; serving needs one
_CACHE_BYTES = 4 << 30
"""Converted networks on the disk; the least recently used ones go. A ViT-B takes 0.6 GB, the starter 30 MB."""


def available() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


class OpenVINOBackend(Backend):
    """OpenVINO on the CPU.

    Args:
        weights: The network.
        arithmetic: fp32, whatever OpenVINO would prefer; bf16; or int8, with weights that have ranges for it.
        threads: CPU threads.
        cache_dir: Where converted networks are kept. Nothing is kept where it cannot be written; the network then goes
            through the temporary folder at each start.
        count_times: Have OpenVINO count the time of each layer, for `layer_times`.

    Raises:
        ConfigError: OpenVINO is not installed; `RangesError`, from the first pass: see `prepare`.
    """

    def __init__(
        self, weights: Weights, arithmetic: Arithmetic, threads: int, cache_dir: Path, count_times: bool = False
    ) -> None:
        if not available():
            raise ConfigError("the openvino runtime is not installed: pip install 'icmformer[cpu]', or use torch")
        self._openvino = imported()
        self._core = _core()
        self._weights = weights
        self._ranges = weights.int8 if arithmetic == "int8" else None
        self._options = {
            "INFERENCE_PRECISION_HINT": "bf16" if arithmetic == "bf16" else "f32",
            "EXECUTION_MODE_HINT": "ACCURACY" if arithmetic == "fp32" else "PERFORMANCE",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "PERF_COUNT": count_times,
            "ENABLE_CPU_PINNING": False,  # workers side by side would all be pinned to the same cores
        }
        self.identity = ("openvino", self._openvino.__version__, arithmetic, self._ranges and self._ranges.digest)
        self.lock = device_lock("cpu")
        self._cache_dir = cache_dir / "openvino"
        self._compiled: OrderedDict[Shape, tuple[Any, Any]] = OrderedDict()
        self._last: Any = None

    def encode(self, image: Tensor) -> ImageFeatures:
        batch, _, height, width = image.shape
        found = self._run("encode", (batch, height, width), [np.ascontiguousarray(image.numpy())])
        return ImageFeatures((height, width), tuple(torch.from_numpy(values) for values in found))

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        prompt = np.zeros((len(prev_mask), 3, *features.size), np.float32)  # as `ClickNetwork.prompt_map`
        prompt[:, 0] = prev_mask[:, 0].numpy()
        draw_disks(prompt[:, 1:], points)
        inputs = [prompt, *(t.numpy() for t in features.tensors)]
        (logits,) = self._run("decode", (len(prompt), *features.size), inputs)
        return torch.from_numpy(np.asarray(logits, np.float32))

    def _run(self, part: str, shape: Shape, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """The outputs of the encoder or the decoder for a shape (batch, height, width)."""
        self._last = self._requests(*shape)[PARTS.index(part)]
        return list(self._last.infer(inputs, share_inputs=True).values())

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Converts and compiles the network for a shape, which the first pass would do otherwise.

        Raises:
            RangesError: int8 is to be computed in, with ranges that do not fit the network.
        """
        self._requests(batch, height, width)

    def layer_times(self) -> list[tuple[str, float]]:
        """Kind and milliseconds of each layer of the last pass; nothing without `count_times`."""
        if self._last is None:
            return []
        return [(layer.node_type, layer.real_time.total_seconds() * 1000) for layer in self._last.profiling_info]

    def _requests(self, batch: int, height: int, width: int) -> tuple[Any, Any]:
        """Encoder and decoder for a shape, ready to run."""
        shape = (batch, height, width)
        if shape not in self._compiled:
            models = self._kept_models(shape) or self._converted(shape)
            if self._ranges:
                for model, ranges in zip(models, (self._ranges.encode, self._ranges.decode), strict=True):
                    quantise(model, ranges, self._weights.name)
            self._compiled[shape] = tuple(
                self._core.compile_model(model, "CPU", self._options).create_infer_request() for model in models
            )
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        return self._compiled[shape]

    def _folder(self, shape: Shape) -> Path:
        versions = f"{__version__} {_code_digest()} {torch.__version__} {self._openvino.__version__}"
        what = f"{self._weights.identity} {versions} {shape}"
        return self._cache_dir / hashlib.sha256(what.encode()).hexdigest()[:32]

    def _kept_models(self, shape: Shape) -> tuple[Any, Any] | None:
        folder = self._folder(shape)
        models = self._read(folder)
        if models:
            with contextlib.suppress(OSError):  # of a cache that cannot be written
                os.utime(folder)  # what was used last is kept longest
        return models

    def _read(self, folder: Path) -> tuple[Any, Any] | None:
        try:
            encode, decode = (self._core.read_model(folder / f"{part}.xml") for part in PARTS)
        except (RuntimeError, OSError):  # not there, or damaged: made anew
            return None
        return encode, decode

    def _save(self, models: tuple[Any, Any], folder: Path) -> None:
        for model, part in zip(models, PARTS, strict=True):
            self._openvino.save_model(model, folder / f"{part}.xml", compress_to_fp16=False)

    def _converted(self, shape: Shape) -> tuple[Any, Any]:
        network = self._weights.build(copy=False)
        parts = split(network, shape[0], shape[1:])
        models = self._convert(parts.encoder, (parts.image,)), self._convert(parts.decoder, parts.prompt)
        self._keep(models, self._folder(shape))
        return self._kept_models(shape) or self._as_read(models) or models

    def _as_read(self, models: tuple[Any, Any]) -> tuple[Any, Any] | None:
        """Models as they come from a file, which differ in last bits from those just made: with a cache or without."""
        with contextlib.suppress(OSError, RuntimeError), tempfile.TemporaryDirectory() as folder:
            self._save(models, Path(folder))
            return self._read(Path(folder))  # mapped into memory: the files may go
        return None

    def _convert(self, part: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of branches on shapes, which are fixed
            # as openvino.convert_model does it, less its telemetry, and less torch's check, which loads its compiler
            traced: Any = torch.jit.trace(part, inputs, check_trace=False)  # type: ignore[no-untyped-call]
            decoder = TorchScriptPythonDecoder(torch.jit.freeze(traced))
            reader = FrontEndManager().load_by_framework("pytorch")
            model = reader.convert(reader.load(decoder))
        for port, tensor in zip(model.inputs, inputs, strict=True):
            port.get_node().set_element_type(self._openvino.Type.f32)
            port.get_node().set_partial_shape(self._openvino.PartialShape(list(tensor.shape)))
        model.validate_nodes_and_infer_types()
        return model

    def _keep(self, models: tuple[Any, Any], folder: Path) -> None:
        """Puts the models into the cache folder in one step; another process may do the same at the same time."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        except OSError:
            return
        try:
            self._save(models, temporary)
            if folder.exists():  # damaged, or put there meanwhile
                shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
            _prune(folder.parent, _CACHE_BYTES)
        except (OSError, RuntimeError):
            shutil.rmtree(temporary, ignore_errors=True)


@cache
def _core() -> Any:
    """OpenVINO's core: one for all networks of a process, for as long as it lives.

    Its CPU plugin gives the thread that makes it a stack for signals, and frees that when it goes itself, in whatever
    thread: the next signal would then end the process (seen with 2026.4, where a network gave way to another one).
    """
    openvino = imported()
    return openvino.Core()


@cache
def _code_digest() -> str:
    """Of all that a converted network is made by: after a change of the code nothing old is served."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    parts = [file for folder in ("models", "layers", "export") for file in (package / folder).glob("*.py")]
    for file in sorted([*parts, Path(__file__)]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _prune(folder_of_all: Path, limit: int) -> None:
    """Deletes the least recently used folders of a cache until the rest fits; the newest always stays."""
    by_age = sorted((p for p in folder_of_all.iterdir() if p.is_dir()), key=lambda p: -p.stat().st_mtime_ns)
    held = 0
    for place, folder in enumerate(by_age):
        held += sum(file.stat().st_size for file in folder.iterdir())
        if place and held > limit:
            shutil.rmtree(folder, ignore_errors=True)
