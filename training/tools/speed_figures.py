"""The figures of `training.bench`, which says what is measured, and how they are shown."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from icmformer import memory
from icmformer.inference.backends import openvino as openvino_backend
from icmformer.inference.profiles import PROFILES, find_arithmetic, find_device, find_runtime
from icmformer.settings import Settings
from icmformer.weights import load

from .click_times import click_times, published_click, sample_image, times_ms
from .machine import machine
from .peers import installed, peers
from .published_path import plain_vit
from .throughput import throughput, workers_throughput

PUBLISHED = "random:icmformer_vit_base448"
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
    precision, auto = Settings.from_environment().precision, find_runtime("auto", find_device(device))
    for name in weights:
        find_arithmetic(precision, PROFILES["fast"], find_device(device), auto, load(name).int8 is not None)
    both = device == "cpu" and openvino_backend.available()
    last = load(weights[-1])
    sizes = []
    for size in megapixels:
        sizes.append({"megapixels": size, **click_times(sample_image(size), last, "fast", "auto", repeats, device)})
        _tick()
    served = throughput(last, "fast", clients, seconds, device)
    threads = torch.get_num_threads()
    shares = [(n, threads // n) for n in (1, 2) if threads % n == 0 and device == "cpu"]
    workers = [workers_throughput(weights[-1], count, each, seconds) for count, each in shares]
    image = sample_image(megapixels[0])
    base_line = published_click(image, plain_vit(load(published)).to(device))
    half = (repeats + 1) // 2  # of the base line's, before and after all else: a machine's speed drifts
    before = times_ms(base_line, half)
    clicks: list[dict[str, Any]] = []
    for name in weights:
        network = load(name)
        for runtime in ["torch", "openvino"] if both else ["torch"]:
            for profile in PROFILES:
                if (runtime, precision, profile) == ("torch", "int8", "fast"):
                    continue  # there is none
                spent = click_times(image, network, profile, runtime, repeats, device)
                clicks.append({"weights": name, "runtime": runtime, "profile": profile, **spent})
                _tick()
    for peer in peers(image) if device == "cpu" and installed() else ():
        few = min(repeats, _PEER_REPEATS)
        times: dict[str, Any] = {
            "first_ms": statistics.median(times_ms(peer.first, few)),
            "later_ms": statistics.median(times_ms(peer.later, few)),
        }
        times |= {"runtime": "torch", "profile": "as published", "arithmetic": "fp32"}
        clicks.append({"weights": peer.name, **times})
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
        "workers": workers,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    base, steady = figures["published_ms"], figures["steady"]
    memory = [f" {'GPU memory':>10} |", f"{'-' * 12}|", f" {'':>10} |"]
    on_gpu = any(row.get("gpu_mb") for row in figures["clicks"])
    head, line, blank = memory if on_gpu else ("", "", "")
    own = f" {_ms(base):>10} {1:>4.1f}x |" if steady else f" {_ms(base):>16} |"
    titles = " | ".join(f"{kind:>16}" for kind in ("first click", "later click", "new object"))
    lines = [
        f"{figures['machine']}; {figures['threads']} threads, medians of {figures['repeats']}, "
        f"{figures['megapixels']:g} megapixels",
        "",
        f"| {'network, runtime, profile (arithmetic)':<60} | {titles} |{head}",
        f"|{'-' * 62}|{'-' * 18}|{'-' * 18}|{'-' * 18}|{line}",
        f"| {'published path, ' + figures['published']:<60} |" + 3 * own + blank,
    ]
    for row in figures["clicks"]:
        cells = [_cell(row, kind) for kind in ("first", "later", "new_object")]
        what = f"{row['weights']}, {row['runtime']}, {row['profile']} ({row['arithmetic']})"
        held = f" {row.get('gpu_mb', 0):>7.0f} MB |" if on_gpu else ""
        lines.append(f"| {what:<60} | {cells[0]:>16} | {cells[1]:>16} | {cells[2]:>16} |{held}")
    lines += ["", f"{figures['sizes_of']}, fast:", ""]
    lines += [
        "| megapixels | first click | later click | of which outside the network | memory |",
        "|---|---|---|---|---|",
    ]
    for row in figures["sizes"]:
        times = f"{_ms(row['first_ms'])} | {_ms(row['later_ms'])} | {row['rest_ms']:.1f} ms"
        lines.append(f"| {row['megapixels']:g} | {times} | {row['rss_mb']:.0f} MB |")
    lines += ["", "| clients at once | clicks a second | median of a click |", "|---|---|---|"]
    for row in figures["throughput"]:
        lines.append(f"| {row['clients']} | {row['clicks_a_second']:.1f} | {_ms(row['median_ms'])} |")
    if figures["workers"]:
        lines += ["", "| worker processes | threads of each | clicks a second |", "|---|---|---|"]
    for row in figures["workers"]:
        lines.append(f"| {row['workers']} | {row['threads']} | {row['clicks_a_second']:.1f} |")
    if not steady:
        first, last = figures["published_halves_ms"]
        moved = f"{_ms(first)} before and {_ms(last)} after all else ({last / first - 1:+.0%})"
        lines += ["", f"No ratios: the baseline took {moved}. Something else ran here,"]
        lines += ["and the other figures are as doubtful: try again on an idle machine."]
    return "\n".join(lines)


def _cell(row: dict[str, Any], kind: str) -> str:
    """A time of a row, and its ratio where there is one."""
    if f"{kind}_ms" not in row:
        return ""
    time = _ms(row[f"{kind}_ms"])
    return f"{time:>10} {row[f'{kind}_ratio']:>4.1f}x" if f"{kind}_ratio" in row else time


def _ms(value: float) -> str:
    """Milliseconds, with a decimal where they are few."""
    return f"{value:.1f} ms" if value < 20 else f"{value:.0f} ms"


def _tick() -> None:
    print(".", end="", flush=True, file=sys.stderr)


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
