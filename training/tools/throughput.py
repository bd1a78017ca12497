"""How many clicks a second an engine serves: to several clients at once, and with several worker processes."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from icmformer import Click, Engine, LoadedImage, memory
from icmformer.weights import Weights, load

from .click_times import clicks_on, milliseconds, sample_image

_READY_SECONDS = 300  # for the slowest worker to load
_ROUNDS = 3  # of each figure, in turn: a machine's speed drifts


@dataclass
class _Load:
    """Clients of an engine of their own, each on its own image, three clicks an object, none of them known already."""

    engine: Engine
    images: Sequence[LoadedImage]
    objects: int = 0
    spent: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, seconds: float) -> None:
        """Lets all click for a while, and counts."""
        begin = time.perf_counter()
        threads = [threading.Thread(target=self._click, args=(image, begin + seconds)) for image in self.images]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds += time.perf_counter() - begin

    def _click(self, image: LoadedImage, end: float) -> None:
        clicks, first = clicks_on(image.pixels), True
        while first or time.perf_counter() < end:
            first = False
            self.objects += 1
            moved = [Click(c.x + self.objects % 97, c.y + self.objects // 97 % 97, c.positive) for c in clicks]
            self.spent.extend(milliseconds(partial(self.engine.segment, image, moved[:n])) for n in (1, 2, 3))


def throughput(
    weights: Weights, profile: str, clients: Sequence[int], seconds: float, device: str = "cpu"
) -> list[dict[str, float]]:
    """Clicks a second and median latency with several clients at once, on images that were opened before.

    Args:
        weights: The network.
        profile: exact or fast.
        clients: How many at once.
        seconds: Of each figure.
        device: cpu, cuda or cuda:N.
    """
    network = Engine(weights, device, profile)
    images = _images(max(clients, default=0))
    loads = [_opened(network.beside(), images[:count]) for count in clients]
    for _ in range(_ROUNDS):
        for each in loads:
            each.run(seconds / _ROUNDS)
    return [
        {
            "clients": len(each.images),
            "clicks_a_second": len(each.spent) / each.seconds,
            "median_ms": statistics.median(each.spent),
        }
        for each in loads
    ]


def workers_throughput(name: str, workers: int, threads: int, seconds: float) -> dict[str, float]:
    """Clicks a second of several processes with a network each, as CVAT's function has them, each kept busy.

    Args:
        name: Of the weights.
        workers: Processes.
        threads: Of each.
        seconds: Of the figure.

    Raises:
        IcmformerError: Weights that cannot be had.
        BrokenExecutor: A process ended, for want of memory, say.
    """
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, _share, (begin,)) as pool:
        rates = [pool.submit(_work, name, threads, seconds) for _ in range(workers)]
        return {"workers": workers, "threads": threads, "clicks_a_second": sum(rate.result() for rate in rates)}


_begin: Any = None  # of a worker process: where all wait until the last one is ready


def _share(begin: Any) -> None:
    global _begin
    _begin = begin


def _work(name: str, threads: int, seconds: float) -> float:
    try:
        torch.set_num_threads(threads)
        memory.for_servers()
        busy = _opened(Engine(load(name), "cpu", "fast"), _images(1))
        _begin.wait(_READY_SECONDS)
    except BaseException:
        _begin.abort()  # nobody waits for this one
        raise
    busy.run(seconds)
    return len(busy.spent) / busy.seconds


def _images(count: int) -> list[LoadedImage]:
    return [LoadedImage.from_array(np.roll(sample_image(1), 7 * n, axis=1)) for n in range(count)]


def _opened(engine: Engine, images: Sequence[LoadedImage]) -> _Load:
    """A load whose images were clicked on before, as by whoever goes on to the next object."""
    for image in images:
        engine.segment(image, clicks_on(image.pixels)[:1])
    return _Load(engine, images)
