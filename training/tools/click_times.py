"""Measures what clicks cost, for `training.bench`, which says what is measured."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data
from torch import Tensor

from icmformer import Caches, Click, Engine, IcmformerError, LoadedImage, memory
from icmformer.inference.backends import openvino as openvino_backend
from icmformer.inference.backends.base import CallableBackend
from icmformer.inference.predictor import Predictor
from icmformer.inference.profiles import PROFILES, find_device
from icmformer.inference.roi import PixelClick, ZoomSettings
from icmformer.models.vit import ICMFormerViT
from icmformer.processor import instruction_sets
from icmformer.types import RGBImage
from icmformer.weights import Weights, load
from training.evaluation.protocol import Stepwise
from training.tools.peers import installed, peers
from training.tools.published_path import PublishedViT, plain_vit

PUBLISHED = "random:icmformer_vit_base448"
_NETWORK_STAGES = ("encode", "decode", "wait")
_PEER_REPEATS = 3  # a click of theirs can take half a minute


def measure_clicks(
    weights: Sequence[str],
    published: str = PUBLISHED,
    device: str = "cpu",
    repeats: int = 7,
    megapixels: Sequence[float] = (1, 12, 50),
    clients: Sequence[int] = (1, 4, 16),
    seconds: float = 5,
    drift: float = 0.1,
) -> dict[str, Any]:
    """All figures; those of the last network's memory come first, before larger ones leave their traces.

    Args:
        weights: Networks to time.
        published: A plain ViT's weights, for the base line.
        device: cpu, cuda or cuda:N.
        repeats: Of each click.
        megapixels: Of the images; the first for all networks, the others for the last one.
        clients: How many at once, for throughput.
        seconds: Of each throughput figure.
        drift: How much the base line may move between its two timings, as a share; beyond it there are no ratios.

    Raises:
        IcmformerError: A device or weights that are not there, or a base line that is no iCMFormer on a plain ViT.
    """
    memory.for_servers()
    device = str(find_device(device))  # what cannot be is said now, not after minutes
    plain_vit(load(published))
    both = device == "cpu" and openvino_backend.available()
    last = load(weights[-1])
    sizes = []
    for size in megapixels:
        sizes.append({"megapixels": size, **click_times(sample_image(size), last, "fast", "auto", repeats, device)})
        _tick()
    served = throughput(last, "fast", clients, seconds, device)
    image = sample_image(megapixels[0])
    base_line = published_click(image, plain_vit(load(published)).to(device))
    half = (repeats + 1) // 2  # of the base line's, before and after all else: a machine's speed drifts
    before = times_ms(base_line, half)
    clicks: list[dict[str, Any]] = []
    for name in weights:
        network = load(name)
        for runtime in ["torch", "openvino"] if both else ["torch"]:
            for profile in PROFILES:
                times = click_times(image, network, profile, runtime, repeats, device)
                clicks.append({"weights": name, "runtime": runtime, "profile": profile, **times})
                _tick()
    for peer in peers(image) if device == "cpu" and installed() else ():
        few = min(repeats, _PEER_REPEATS)
        times = {
            "first_ms": statistics.median(times_ms(peer.first, few)),
            "later_ms": statistics.median(times_ms(peer.later, few)),
        }
        clicks.append({"weights": peer.name, "runtime": "torch", "profile": "fp32", **times})
        _tick()
    after = times_ms(base_line, half)
    base, halves = statistics.median(before + after), (statistics.median(before), statistics.median(after))
    steady = abs(halves[1] / halves[0] - 1) <= drift
    for row in clicks if steady else ():
        row |= {key.replace("_ms", "_ratio"): base / row[key] for key in list(row) if key.endswith("_ms")}
    print(file=sys.stderr)
    return {
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "megapixels": megapixels[0],
        "published": published,
        "published_ms": base,
        "published_halves_ms": halves,
        "steady": steady,
        "clicks": clicks,
        "sizes_of": weights[-1],
        "sizes": sizes,
        "throughput": served,
    }


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
) -> dict[str, float]:
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
        "first_ms": first,
        "later_ms": statistics.median(later),
        "new_object_ms": statistics.median(new),
        "rest_ms": statistics.median(rest),
        "rss_mb": _held_mb(),
        "gpu_mb": (torch.cuda.max_memory_allocated(device) - before) / 2**20 if on_gpu else 0.0,
    }


def throughput(
    weights: Weights, profile: str, clients: Sequence[int], seconds: float, device: str = "cpu"
) -> list[dict[str, float]]:
    """Clicks a second and median latency with several clients, each on its own image, three clicks an object."""
    network = Engine(weights, device, profile)
    images = [LoadedImage.from_array(np.roll(sample_image(1), 7 * n, axis=1)) for n in range(max(clients, default=0))]
    figures = []
    for count in clients:
        engine, spent = network.beside(), list[float]()
        for image in images[:count]:
            engine.prefetch(image)  # opened before, as by whoever clicks on its next object
        begin = time.perf_counter()

        def work(image: LoadedImage, engine: Engine = engine, spent: list[float] = spent, begin: float = begin) -> None:
            clicks, turn = clicks_on(image.pixels), 0
            while not turn or time.perf_counter() - begin < seconds:
                turn += 1  # an object of its own each time: none of the predictions is known already
                moved = [Click(c.x + turn % 40, c.y + turn // 40 % 90, c.positive) for c in clicks]
                spent.extend(milliseconds(partial(engine.segment, image, moved[:n])) for n in (1, 2, 3))

        threads = [threading.Thread(target=work, args=(image,)) for image in images[:count]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - begin
        figures.append({"clients": count, "clicks_a_second": len(spent) / took, "median_ms": statistics.median(spent)})
    return figures


def _held_mb() -> float:
    """Megabytes that this process holds; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return 0.0
    memory.release()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _tick() -> None:
    print(".", end="", flush=True, file=sys.stderr)


def machine(device: str = "cpu") -> str:
    """The processor with its instruction sets, and the versions that matter."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    if sets := instruction_sets():
        name += f" with {', '.join(sets)}"
    return f"{name}; torch {torch.__version__}, OpenVINO {'yes' if openvino_backend.available() else 'not installed'}"


def _ms(value: float) -> str:
    """Milliseconds, with a decimal where they are few."""
    return f"{value:.1f} ms" if value < 20 else f"{value:.0f} ms"


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    base, steady = figures["published_ms"], figures["steady"]
    memory = [f" {'GPU memory':>10} |", f"{'-' * 12}|", f" {'':>10} |"]
    on_gpu = any(row.get("gpu_mb") for row in figures["clicks"])
    head, line, blank = memory if on_gpu else ("", "", "")
    own = f" {_ms(base):>10} {1:>4.1f}x |" if steady else f" {_ms(base):>16} |"
    lines = [
        f"{figures['machine']}; {figures['threads']} threads, medians of {figures['repeats']}, "
        f"{figures['megapixels']:g} megapixels",
        "",
        f"| {'network, runtime, profile':<52} | {'first click':>16} | {'later click':>16} | {'new object':>16} |{head}",
        f"|{'-' * 54}|{'-' * 18}|{'-' * 18}|{'-' * 18}|{line}",
        f"| {'published path, ' + figures['published']:<52} |" + 3 * own + blank,
    ]
    for row in figures["clicks"]:
        cells = [_cell(row, kind) for kind in ("first", "later", "new_object")]
        what = f"{row['weights']}, {row['runtime']}, {row['profile']}"
        held = f" {row.get('gpu_mb', 0):>7.0f} MB |" if on_gpu else ""
        lines.append(f"| {what:<52} | {cells[0]:>16} | {cells[1]:>16} | {cells[2]:>16} |{held}")
    if not steady:
        moved = " and then ".join(_ms(half) for half in figures["published_halves_ms"])
        lines += [
            "",
            f"No ratios: the base line took {moved}. Something else ran here; run it again on an idle machine.",
        ]
    lines += ["", f"{figures['sizes_of']}, fast:", ""]
    lines += ["| megapixels | first click | later click | of which not network | RSS after |", "|---|---|---|---|---|"]
    for row in figures["sizes"]:
        times = f"{_ms(row['first_ms'])} | {_ms(row['later_ms'])} | {row['rest_ms']:.1f} ms"
        lines.append(f"| {row['megapixels']:g} | {times} | {row['rss_mb']:.0f} MB |")
    lines += ["", "| clients at once | clicks a second | median of a click |", "|---|---|---|"]
    for row in figures["throughput"]:
        lines.append(f"| {row['clients']} | {row['clicks_a_second']:.1f} | {_ms(row['median_ms'])} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], kind: str) -> str:
    """A time of a row, and its ratio where there is one."""
    if f"{kind}_ms" not in row:
        return ""
    time = _ms(row[f"{kind}_ms"])
    return f"{time:>10} {row[f'{kind}_ratio']:>4.1f}x" if f"{kind}_ratio" in row else time


def save_plot(figures: dict[str, Any], path: Path) -> None:
    """Draws the later click of each network, runtime and profile as a multiple of the published path's speed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in figures["clicks"] if "later_ratio" in row]
    names = ["published path"] + [f"{r['weights'].split(':')[-1]}, {r['runtime']}, {r['profile']}" for r in rows]
    ratios = [1.0] + [r["later_ratio"] for r in rows]
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1), layout="constrained")
    bars = axes.barh(names[::-1], ratios[::-1], color=["#4878a8"] * len(rows) + ["#999999"])
    axes.bar_label(bars, [f"{ratio:.1f}x" for ratio in ratios[::-1]], padding=3)
    axes.set(xscale="log", xlabel="later click, times as fast as the published ViT-B's", xlim=(0.8, 2.5 * max(ratios)))
    figure.savefig(path, dpi=110)
    plt.close(figure)
