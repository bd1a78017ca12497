"""`python -m training.int8_trial`: what int8 brings and costs on a CPU, before anybody ships it.

Quantises both halves of a network after training (NNCF; calibrated on what they see while objects of one shard are
clicked on), then plays objects of another shard, without the mirror pass, in `fast`'s precision and in int8. Needs nncf
(`pip install nncf`), which nothing else here does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from icmformer.errors import ConfigError
from icmformer.inference.backends import openvino as openvino_backend
from icmformer.inference.backends.openvino import OpenVINOBackend
from icmformer.inference.cache import ByteLRU
from icmformer.inference.predictor import ClickPath
from icmformer.inference.profiles import find_device, has_bf16
from icmformer.inference.roi import ZoomSettings
from icmformer.inference.runner import SplitRunner
from icmformer.models import ClickNetwork, ImageFeatures, network_config
from icmformer.settings import Settings
from icmformer.weights import Weights, load
from training.command import exit_status
from training.evaluation.benchmarks import EvalObject, load_benchmark
from training.evaluation.noc import click_count
from training.evaluation.protocol import Trace, play, protocol

_Inputs = list[NDArray[np.float32]]


class _Recording(OpenVINOBackend):
    """Remembers what both halves are given."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.images, self.prompts = list[_Inputs](), list[_Inputs]()

    def encode(self, image: Tensor) -> ImageFeatures:
        self.images.append([image.contiguous().numpy()])
        return super().encode(image)

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        prompt = ClickNetwork.prompt_map(prev_mask, points).contiguous().numpy()
        self.prompts.append([prompt, *(t.numpy() for t in features.tensors)])
        return super().decode(features, prev_mask, points)

    def models(self, side: int) -> tuple[Any, Any]:
        """Both halves as OpenVINO's models."""
        found = self._kept_models((1, side, side))
        if found is None:
            raise ConfigError("the cache folder cannot be written (ICMFORMER_CACHE_DIR)")
        return found


class _Quantised(OpenVINOBackend):
    """Runs given models."""

    def __init__(self, models: tuple[Any, Any], *args: Any) -> None:
        super().__init__(*args)
        self._models = models
        self.identity = (self.identity, "int8")

    def _kept_models(self, shape: tuple[int, int, int]) -> tuple[Any, Any] | None:
        return self._models


def played(backend: OpenVINOBackend, weights: Weights, objects: Sequence[EvalObject], what: str) -> list[Trace]:
    """The protocol on each object."""
    side = network_config(weights.config).img_size
    zoom = ZoomSettings(target_size=(side, side), min_crop_size=weights.serving.min_crop_size)
    serving = weights.serving
    runner = SplitRunner(backend, ByteLRU(256 << 20))
    path = ClickPath(runner, zoom, False, serving.second_look, serving.click_margin)
    traces = []
    for item in tqdm(objects, unit="object", desc=what, disable=None):
        image, truth = item.load()
        traces.append(play(protocol(path, image), truth))
    return traces


def quantised(recorded: _Recording, side: int, samples: int) -> tuple[Any, Any]:
    """Both halves in int8.

    Raises:
        ConfigError: NNCF is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise ConfigError("int8 is tried with NNCF: pip install nncf") from error
    encode, decode = recorded.models(side)
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": samples}
    return (
        nncf.quantize(encode, nncf.Dataset(_spread(recorded.images, samples)), **options),
        nncf.quantize(decode, nncf.Dataset(_spread(recorded.prompts, samples)), **options),
    )


def _spread(inputs: list[_Inputs], samples: int) -> list[_Inputs]:
    return list(islice(inputs[:: max(1, len(inputs) // samples)], samples))


def _told(name: str, traces: Sequence[Trace]) -> str:
    count = click_count([t.ious for t in traces], 0.9, 20)
    first = np.mean([t.ious[0] for t in traces])
    seconds = statistics.median(s for t in traces for s in t.seconds)
    return f"| {name} | {count.noc:.2f} | {first:.3f} | {1000 * seconds:.0f} ms |"


def _trial(args: argparse.Namespace) -> int:
    if not openvino_backend.available():
        raise ConfigError("int8 is tried with OpenVINO, which is not installed: pip install 'icmformer[cpu]'")
    weights, cache_dir = load(args.weights), Settings.from_environment().cache_dir
    side = network_config(weights.config).img_size
    low = has_bf16(find_device("cpu"))
    given = (weights, low, args.threads, cache_dir)
    recorded = _Recording(*given)
    played(recorded, weights, load_benchmark("shard", args.calibrate_on, args.samples), "calibration")
    int8 = _Quantised(quantised(recorded, side, args.samples), *given)
    objects = load_benchmark("shard", args.root, args.limit)
    rows = [
        _told("bf16" if low else "fp32", played(OpenVINOBackend(*given), weights, objects, "as served")),
        _told("int8", played(int8, weights, objects, "int8")),
    ]
    print("| | NoC@90 | mIoU after one click | median of a click |\n|---|---|---|---|\n" + "\n".join(rows))
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.int8_trial", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="starter", help="name or path (starter)")
    parser.add_argument("--calibrate-on", type=Path, required=True, metavar="ZIP", help="shard to calibrate on")
    parser.add_argument("--root", type=Path, required=True, metavar="ZIP", help="shard to play on, another one")
    parser.add_argument("--samples", type=int, default=100, help="for calibration (100)")
    parser.add_argument("--limit", type=int, default=120, help="objects played, spread over the shard (120)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    return exit_status(lambda: _trial(args), "stopped")


if __name__ == "__main__":
    sys.exit(main())
