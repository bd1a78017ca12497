"""The time of clicks of one engine; `training.bench` says what is measured."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data
from torch import Tensor

from icmformer import Caches, Click, Engine, IcmformerError, LoadedImage, memory
from icmformer.inference.backends.base import CallableBackend
from icmformer.inference.predictor import Predictor
from icmformer.inference.roi import PixelClick, ZoomSettings
from icmformer.models.vit import ICMFormerViT
from icmformer.types import RGBImage
from icmformer.weights import Weights

from ..evaluation.protocol import Stepwise
from .published_path import PublishedViT

_NETWORK_STAGES = ("encode", "decode", "wait")


def sample_image(megapixels: float) -> RGBImage:
    """A real photograph, resized to a number of megapixels."""
    image = np.asarray(data.astronaut(), np.uint8)  # type: ignore[no-untyped-call]
    side = round((megapixels * 1e6) ** 0.5)
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def milliseconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def times_ms(call: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of calls, after one that is not counted."""
    call()
    return [milliseconds(call) for _ in range(repeats)]


def clicks_on(image: RGBImage) -> list[Click]:
    """Three clicks on one object of the image."""
    height, width = image.shape[:2]
    return [
        Click(0.45 * width, 0.5 * height),
        Click(0.4 * width, 0.7 * height),
        Click(0.9 * width, 0.1 * height, False),
    ]


def published_click(image: RGBImage, vit: ICMFormerViT) -> Callable[[], object]:
    """The published path's click, from the decoded image to the full probability map, to be timed.

    On a GPU with torch's defaults, as the published code has it: convolutions may round to TF32, products may not.
    """
    published, side, device = PublishedViT(vit), vit.config.img_size, vit.mean.device

    def network(image: Tensor, prev_mask: Tensor, points: Tensor) -> Tensor:
        return published(image.to(device), prev_mask.to(device), points.to(device))

    predictor = Predictor(CallableBackend(network), ZoomSettings(target_size=(side, side)), flip=True)
    loaded = LoadedImage.from_array(image)
    click = PixelClick(image.shape[0] // 2, image.shape[1] // 2, True)
    return lambda: Stepwise(predictor, loaded)([click])


def click_times(
    image: RGBImage, weights: Weights, profile: str, runtime: str, repeats: int, device: str = "cpu"
) -> dict[str, Any]:
    """Milliseconds of a first click, a later click and the first click on a new object, and of the later one's rest.

    The rest is all but the network: naming the image, ROI, crop, resizing back, score. A reply is on the CPU, so that a
    GPU's work is part of each. `rss_mb` is what the process holds with the image and the caches, `gpu_mb` the most that
    weights, features and a pass together take of a GPU's memory.
    """
    on_gpu = device != "cpu"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    loaded, clicks = LoadedImage.from_array(image), clicks_on(image)
    warm = Engine(weights, device, profile, runtime=runtime)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    cold = warm.beside(Caches())  # keeps nothing: all are first clicks
    first = statistics.median(times_ms(lambda: cold.segment(loaded, clicks[:1]), repeats))
    later, rest, new = [], [], []
    for n in range(-1, repeats):
        shifted = [*clicks[:2], Click(clicks[2].x, clicks[2].y + n + 2, False)]
        roi = warm.segment(loaded, shifted[:2]).roi
        start = time.perf_counter()
        result = warm.segment(loaded, shifted)
        spent = 1000 * (time.perf_counter() - start)
        elsewhere = [Click(clicks[0].x + n + 2, clicks[0].y)]
        fresh = milliseconds(partial(warm.segment, loaded, elsewhere))
        if n < 0:
            continue  # not counted
        if result.roi != roi:
            raise IcmformerError(f"the ROI moved at the third click ({weights.name}, {profile}): no later click")
        later.append(spent)
        rest.append(spent - sum(result.timings.get(stage, 0) for stage in _NETWORK_STAGES))
        new.append(fresh)
    return {
        "arithmetic": warm.arithmetic,
        "first_ms": first,
        "later_ms": statistics.median(later),
        "new_object_ms": statistics.median(new),
        "rest_ms": statistics.median(rest),
        "rss_mb": _held_mb(),
        "gpu_mb": (torch.cuda.max_memory_allocated(device) - before) / 2**20 if on_gpu else 0.0,
    }


def _held_mb() -> float:
    """Megabytes that this process holds; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return 0.0
    memory.release()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
