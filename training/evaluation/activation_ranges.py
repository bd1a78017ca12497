"""Measures, on clicks, between which values the inputs of a network's products lie: what computing in int8 needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from icmformer import Engine
from icmformer.errors import ConfigError
from icmformer.inference.backends.int8 import showing_inputs
from icmformer.inference.backends.openvino import OpenVINOBackend, Shape
from icmformer.inference.cache import NullCache
from icmformer.weights import Weights
from icmformer.weights.activation_ranges import PARTS, ActivationRanges, Range

from .benchmarks import EvalObject
from .protocol import Stepwise, simulate


class _Measuring(OpenVINOBackend):
    """OpenVINO in fp32, which looks at what each product multiplies by weights."""

    def __init__(self, weights: Weights, threads: int, cache_dir: Path) -> None:
        super().__init__(weights, "fp32", threads, cache_dir)
        self.seen: dict[str, dict[str, Range]] = {part: {} for part in PARTS}
        self._showing: dict[Shape, list[tuple[Any, list[str]]]] = {}

    def _run(self, part: str, shape: Shape, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        if shape not in self._showing:
            shown = (showing_inputs(model) for model in self._kept_models(shape) or self._converted(shape))
            self._showing[shape] = [
                (self._core.compile_model(model, "CPU", self._options).create_infer_request(), names)
                for model, names in shown
            ]
        request, names = self._showing[shape][PARTS.index(part)]
        request.infer(inputs, share_inputs=True)
        known = self.seen[part]
        for place, name in enumerate(names):
            values = request.get_output_tensor(place).data
            low, high = known.get(name, (np.inf, -np.inf))
            known[name] = min(low, float(values.min())), max(high, float(values.max()))
        return super()._run(part, shape, inputs)


def measure_ranges(engine: Engine, objects: Sequence[EvalObject], clicks: int) -> ActivationRanges:
    """Makes some clicks on each object, as the engine would without its mirror pass.

    Args:
        engine: On a CPU, with the openvino runtime; of a profile without the mirror pass.
        objects: Objects.
        clicks: On each, or fewer where the mask is right before.

    Raises:
        ConfigError: Another engine, no object, or no click.
    """
    if engine.runtime != "openvino" or engine.profile.flip:
        raise ConfigError(
            "ranges are measured with the profile fast and the openvino runtime: pip install 'icmformer[cpu]'"
        )
    if clicks < 1 or not objects:
        raise ConfigError("ranges are measured with at least one click on one object")
    backend = _Measuring(engine.weights, torch.get_num_threads(), engine.settings.cache_dir)
    predictor = replace(engine.predictor, backend=backend, features=NullCache())
    for item in tqdm(objects, unit="object"):
        image, truth = item.load()
        simulate(Stepwise(predictor, image), truth, engine.weights.serving.threshold, None, clicks)
    return ActivationRanges(**backend.seen)
