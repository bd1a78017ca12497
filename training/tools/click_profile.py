"""Measures the operations of a later click, for `training.profile_click`, which says what is measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from icmformer.inference.backends import openvino as openvino_backend
from icmformer.inference.backends.openvino import OpenVINOBackend
from icmformer.settings import Settings
from icmformer.weights import load

from .published_path import PublishedViT, plain_vit

_TOP = 5


def torch_times(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median milliseconds by torch operator of a call, without what an operator calls in turn."""
    call()
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            call()
        runs.append({e.key.removeprefix("aten::"): e.self_cpu_time_total / 1000 for e in recorded.key_averages()})
    return _medians(runs)


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run.get(name, 0.0) for run in runs) for name in runs[0]}


def openvino_times(backend: OpenVINOBackend, call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median milliseconds by kind of OpenVINO's layers of a call that decodes."""
    call()
    runs = []
    for _ in range(repeats):
        call()
        run: dict[str, float] = defaultdict(float)
        for kind, spent in backend.layer_times():
            run[kind] += spent
        runs.append(dict(run))
    return _medians(runs)


def table(columns: dict[str, dict[str, float]]) -> str:
    """The top of each column in milliseconds and as a share of all."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    tops = []
    for times in columns.values():
        whole = sum(times.values())
        top = sorted(times.items(), key=lambda item: -item[1])[:_TOP]
        cells = [f"`{name}` {spent:.0f} ms, {100 * spent / whole:.0f}%" for name, spent in top]
        tops.append([*cells, *[""] * (_TOP - len(cells)), f"{whole:.0f} ms"])
    for place in range(_TOP + 1):
        lines.append(f"| {place + 1 if place < _TOP else 'all'} | " + " | ".join(top[place] for top in tops) + " |")
    return "\n".join(lines)


def profile_clicks(weights: str, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """The columns of the table.

    Raises:
        ConfigError: Not iCMFormer on a plain ViT.
    """
    loaded = load(weights)
    network = plain_vit(loaded)
    side = network.config.img_size
    random = torch.Generator().manual_seed(0)
    image, previous = (torch.rand(2, channels, side, side, generator=random) for channels in (3, 1))
    points = torch.tensor([[[side / 2, side / 2, 0.0], [-1, -1, -1]]]).repeat(2, 1, 1)
    published = PublishedViT(network)
    with torch.inference_mode():
        features = network.encode_image(image)
        columns = {
            "published path, torch": torch_times(lambda: published(image, previous, points), repeats),
            "later click, torch": torch_times(lambda: network.decode(features, previous, points), repeats),
        }
    if openvino_backend.available():
        cache_dir = Settings.from_environment().cache_dir
        backend = OpenVINOBackend(loaded, "fp32", threads, cache_dir, count_times=True)
        kept = backend.encode(image)
        columns["later click, OpenVINO"] = openvino_times(
            backend, lambda: backend.decode(kept, previous, points), repeats
        )
    return columns
