"""Runs an evaluation: a simulated session on every object of a data set, on several devices and processes."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from icmformer import Caches, Engine, LoadedImage
from icmformer.errors import ConfigError
from icmformer.inference.cache import ByteLRU
from icmformer.inference.profiles import find_device, find_runtime
from icmformer.serving.client import asker
from icmformer.settings import Settings
from icmformer.types import BoolMask
from icmformer.weights import THRESHOLD

from ..simulated_annotator import SimulatedAnnotator
from .benchmarks import EvalObject, Truth, load_benchmark
from .noc import click_count
from .object_results import Header, ObjectLog, ObjectResult
from .protocol import (
    JitteredAnnotator,
    Predict,
    Stepwise,
    as_served,
    box_around,
    by_function,
    simulate,
)
from .report import OverlayStrip, write_results
from .settings import EvaluationSettings

Size = tuple[int, int]


def evaluate(
    settings: EvaluationSettings,
    out: Path,
    devices: Sequence[str] = ("cpu",),
    jobs: int = 1,
    overlays: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulates a session on every object that has none yet, and writes the results.

    Args:
        settings: What decides the figures.
        out: Folder for results.json, curve.png and, while it runs, objects.jsonl, from which it goes on after a stop.
        devices: cpu, cuda or cuda:N, each.
        jobs: Processes on each device.
        tell: Called after each object with how many are done and how many there are.
        overlays: Also write a picture of every click of every object to `out/overlays`.

    Returns:
        The figures and what they are of, as in results.json.

    Raises:
        ConfigError: `out` holds another run, there is not one object, or a process died.
        IcmformerError: Weights, data, a device or a server that are not there.
    """
    if jobs < 1:
        raise ConfigError("--jobs starts at 1")
    header = settings.header()
    devices = [str(find_device(name)) for name in devices]
    objects = load_benchmark(settings.dataset, settings.root, settings.limit)
    log = ObjectLog(out, header)
    done = dict(log.results)
    pictures = out / "overlays" if overlays else None
    if pictures:
        pictures.mkdir(exist_ok=True)
        done = {name: result for name, result in done.items() if (pictures / f"{name}.jpg").exists()}
    todo = [item for item in objects if item.name not in done]
    with tqdm(total=len(objects), initial=len(done), unit="object", desc=settings.dataset) as bar:
        for result in _results(settings, header["size"], todo, devices, jobs, pictures):
            done[result["name"]] = result
            log.add(result)
            bar.update()
            if tell:
                tell(len(done), len(objects))
            bar.set_postfix(clicks=f"{_noc_so_far(done.values(), settings.target_iou or 0.9):.2f}")
    skipped = {item.name: done[item.name]["skipped"] for item in objects if "skipped" in done[item.name]}
    ordered = [done[item.name] for item in objects if item.name not in skipped]
    if not ordered:
        raise ConfigError(f"every object of {settings.root} was skipped: {next(iter(skipped.values()))}")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    return write_results(ordered, {**_facts(settings, header, devices), "skipped": skipped}, out)


def _noc_so_far(results: Iterable[ObjectResult], target: float) -> float:
    ious = [result["ious"] for result in results if "ious" in result]
    return click_count(ious, target).noc if ious else 0.0


def _facts(settings: EvaluationSettings, header: Header, devices: Sequence[str]) -> dict[str, Any]:
    """What the figures are of."""
    annotator = {"click_spread": settings.click_spread, "seed": settings.seed}
    if settings.server:
        what = {"dataset": settings.dataset, "server": settings.server, "model": header["identity"]}
        return {**what, "as_served": "unordered", "target_iou": settings.target_iou, **annotator}
    weights = settings.load_weights()
    return {
        "dataset": settings.dataset,
        "weights": {
            "name": weights.name,
            "sha256": weights.sha256,
            "path": str(weights.path) if weights.path else None,
        },
        "profile": settings.profile,
        "runtime": find_runtime(settings.runtime, torch.device(devices[0])),
        "target_size": header["size"],
        **weights.serving.as_mapping(),
        "as_served": settings.order,
        "box": settings.box,
        "target_iou": settings.target_iou,
        **annotator,
        "devices": devices,
    }


class _Worker:
    """Simulates sessions in one process, at an input of (rows, columns) pixels."""

    def __init__(
        self, settings: EvaluationSettings, size: Size, device: str, threads: int, overlays: Path | None
    ) -> None:
        torch.set_num_threads(threads)
        self._settings, self._overlays = settings, overlays
        if settings.server:
            return
        caches = Caches(ByteLRU(256 << 20), ByteLRU(64 << 20))
        weights, profile = settings.load_weights(), settings.make_profile()
        self._engine = Engine(weights, device, profile, caches, settings.runtime)
        zoom = dataclasses.replace(self._engine.predictor.zoom, target_size=size)
        self._predictor = dataclasses.replace(self._engine.predictor, zoom=zoom)

    def __call__(self, item: EvalObject) -> ObjectResult:
        image, truth = item.load()
        if not (truth == 1).any():
            return {"name": item.name, "skipped": "no pixel of the object"}
        settings = self._settings
        result: ObjectResult = {"name": item.name}
        initial_mask: BoolMask | None = None
        if settings.box is not None:
            initial_mask = self._engine.segment(image, box=box_around(truth)).mask
            result["box_iou"] = SimulatedAnnotator(truth).iou(initial_mask)
        strip = OverlayStrip(image.pixels, truth) if self._overlays else None
        annotator = None
        if settings.click_spread:
            annotator = JitteredAnnotator(truth, settings.click_spread, _seed(item.name, settings.seed))
        session = simulate(
            self._predict(image, truth),
            truth,
            threshold=THRESHOLD if settings.server else self._engine.weights.serving.threshold,
            target_iou=settings.target_iou,
            initial_mask=initial_mask,
            observe=strip.add if strip else None,
            annotator=annotator,
        )
        if not session.ious:  # the box alone left nothing to click on
            return {**result, "clicks": [], "ious": [result["box_iou"]], "seconds": [], "masks": []}
        if strip and self._overlays:
            strip.save(self._overlays / f"{item.name}.jpg")
        result["clicks"], result["ious"] = [*session.clicks], session.ious
        result["seconds"], result["masks"] = session.seconds, session.masks
        return result

    def _predict(self, image: LoadedImage, truth: Truth) -> Predict:
        settings = self._settings
        if settings.server:
            return by_function(asker(settings.server), image)
        if settings.box is not None:
            return as_served(self._engine, image, settings.order or "ordered", box_around(truth))
        if settings.order:
            return as_served(self._engine, image, settings.order)
        return Stepwise(self._predictor, image)


def _seed(name: str, seed: int) -> int:
    """An object's own seed, whatever the order in which objects come."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "big")


def _results(
    settings: EvaluationSettings,
    size: Size,
    objects: list[EvalObject],
    devices: Sequence[str],
    jobs: int,
    overlays: Path | None,
) -> Iterator[ObjectResult]:
    """The results of objects, as they come."""
    processes = min(len(devices) * jobs, len(objects))
    threads = Settings.from_environment().threads or max(1, (os.cpu_count() or 1) // max(processes, 1))
    if processes <= 1:
        if objects:
            yield from map(_Worker(settings, size, devices[0], threads, overlays), objects)
        return
    context = multiprocessing.get_context("spawn")
    queue: Any = context.SimpleQueue()
    for index in range(processes):
        queue.put(devices[index % len(devices)])
    given = (settings, size, queue, threads, overlays)
    with ProcessPoolExecutor(processes, context, _start_worker, given) as pool:
        try:
            for done in as_completed([pool.submit(_result, item) for item in objects]):
                yield done.result()
        except BrokenProcessPool as error:
            raise ConfigError("a process died, most likely for lack of memory: try fewer --jobs") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: _Worker | None = None  # of a child process


def _start_worker(settings: EvaluationSettings, size: Size, devices: Any, threads: int, overlays: Path | None) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    _worker = _Worker(settings, size, devices.get(), threads, overlays)


def _end_with_parent() -> None:
    """Ends this process once its parent is gone: a parent that was killed has told it nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _result(item: EvalObject) -> ObjectResult:
    assert _worker is not None
    return _worker(item)
