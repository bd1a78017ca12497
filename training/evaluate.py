"""Benchmarks click-based segmentation: `python -m training.evaluate --dataset GrabCut --root DIR --out DIR`.

Plays the simulated annotator on every object and writes results.json, curve.png and, object by object while it runs,
objects.jsonl; run it again with the same --out to go on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from icmformer import Caches, Engine, LoadedImage
from icmformer.errors import ConfigError
from icmformer.inference.backends.base import CallableBackend
from icmformer.inference.cache import ByteLRU
from icmformer.inference.engine import THRESHOLD
from icmformer.inference.predictor import Predictor
from icmformer.inference.profiles import PROFILES, RUNTIMES, find_device, find_profile, find_runtime
from icmformer.inference.prompts import BoxStart
from icmformer.inference.roi import ZoomSettings
from icmformer.models import meta_network, network_config
from icmformer.serving.client import asker, model_of
from icmformer.settings import Settings
from icmformer.types import BoolMask
from icmformer.weights import load
from training.command import exit_status
from training.evaluation.benchmarks import BENCHMARKS, EvalObject, load_benchmark
from training.evaluation.cvat_client import answered_by
from training.evaluation.noc import click_count
from training.evaluation.object_results import resume
from training.evaluation.protocol import LooseClicker, Served, Trace, as_served, box_around, play, protocol
from training.evaluation.report import OverlayStrip, print_table, save_curve, summarise
from training.simulated_annotator import SimulatedAnnotator

MAX_CLICKS = 20
_UNZOOMED = 10**9


def trace(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    image: NDArray[np.uint8],
    gt_mask: NDArray[np.integer],
    zoom_in: Mapping[str, Any] | None,
    flip: bool = True,
    threshold: float = THRESHOLD,
    target_iou: float | None = 0.9,
    max_clicks: int = MAX_CLICKS,
) -> Trace:
    """Plays the protocol on one object with any network.

    Args:
        network: `network(image, prev_mask, points) -> logits`, as `icmformer.models.ClickNetwork`.
        image: (H, W, 3) uint8 RGB.
        gt_mask: (H, W): 1 object, 0 background, -1 ignored.
        zoom_in: Fields of `ZoomSettings` (`skip_clicks`, `target_size`, ...); None shows the network the whole image.
        flip: Average with the mirror image.
        threshold: Probability above which a pixel is in the mask.
        target_iou: Where to stop; None plays all clicks.
        max_clicks: Most clicks.

    Returns:
        Clicks, IoUs, regions, and the last probabilities.
    """
    settings = dict(zoom_in) if zoom_in is not None else {"skip_clicks": _UNZOOMED}
    size = settings.get("target_size")
    if size is not None and not isinstance(size, int):
        settings["target_size"] = tuple(size)
    predictor = Predictor(CallableBackend(network), ZoomSettings(**settings), flip)
    answer = protocol(predictor, LoadedImage.from_array(image))
    return play(answer, np.asarray(gt_mask, np.int32), threshold, target_iou, max_clicks)


@dataclass(frozen=True)
class Run:
    """What decides an evaluation's figures."""

    weights: str
    identity: str
    dataset: str
    root: str
    profile: str
    size: tuple[int, int]
    target_iou: float | None
    served: Served | None
    box: str | None
    limit: int | None
    server: str | None = None
    runtime: str = "auto"
    spread: float = 0.0
    seed: int = 0
    second_look: bool | None = None

    @property
    def header(self) -> dict[str, Any]:
        """What the file of results by object says of them: all that decides them, without what is as always."""
        usual = {"server": None, "runtime": "auto", "spread": 0.0, "seed": 0, "second_look": None}
        every = {key: value for key, value in asdict(self).items() if key != "weights"}
        return {key: value for key, value in every.items() if key not in usual or value != usual[key]}


class Worker:
    """Plays objects in one process."""

    def __init__(self, run: Run, device: str, threads: int, overlays: Path | None) -> None:
        torch.set_num_threads(threads)
        self.run, self.overlays = run, overlays
        if run.server:
            return
        profile = find_profile(run.profile)
        if run.box is not None:
            guess, _, centre = run.box.partition("+")
            profile = dataclasses.replace(profile, box=BoxStart(guess, centre == "centre"))
        weights = load(run.weights)
        if run.second_look is not None:
            serving = dataclasses.replace(weights.serving, refinement_pass=run.second_look)
            weights = dataclasses.replace(weights, serving=serving)
        self.engine = Engine(weights, device, profile, Caches(ByteLRU(256 << 20), ByteLRU(64 << 20)), run.runtime)
        self.predictor = dataclasses.replace(self.engine.predictor, zoom=ZoomSettings(target_size=run.size))

    def __call__(self, item: EvalObject) -> dict[str, Any]:
        image, truth = item.load()
        if not (truth == 1).any():
            return {"name": item.name, "skipped": "no pixel of the object"}
        strip = OverlayStrip(image.pixels, truth) if self.overlays else None
        watch = strip.add if strip else None
        first: BoolMask | None = None
        row: dict[str, Any] = {"name": item.name}
        if self.run.server:
            answer = answered_by(asker(self.run.server), image)
        elif self.run.box is not None:
            box = box_around(truth)
            first = self.engine.segment(image, box=box).mask
            row["box_iou"] = SimulatedAnnotator(truth).iou(first)
            answer = as_served(self.engine, image, self.run.served or "ordered", box)
        elif self.run.served:
            answer = as_served(self.engine, image, self.run.served)
        else:
            answer = protocol(self.predictor, image)
        clicker = LooseClicker(truth, self.run.spread, _seed(item.name, self.run.seed)) if self.run.spread else None
        played = play(answer, truth, THRESHOLD, self.run.target_iou, MAX_CLICKS, first, watch, clicker)
        if strip and self.overlays:
            strip.save(self.overlays / f"{item.name}.jpg")
        if not played.ious:  # the box alone left nothing to click on
            return {**row, "clicks": [], "ious": [row["box_iou"]], "seconds": [], "masks": []}
        kept = {key: getattr(played, key) for key in ("clicks", "ious", "seconds", "masks")}
        return {**row, **kept}


def _seed(name: str, seed: int) -> int:
    """An object's own seed, the same in whatever order objects are played."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "big")


def target_size(mode: str, dataset: str, native: int) -> tuple[int, int]:
    """The network's input for a zoom mode.

    Args:
        mode: `native`, the weights' own input size; `cvpr`, 448, and 672 on DAVIS, as published; `fixedN`, `fixedN,M`;
            `auto`, which is `cvpr` for weights made for 448 and `native` for others.
        dataset: The benchmark.
        native: The weights' input size.

    Raises:
        ConfigError: Another mode.
    """
    if mode == "auto":
        mode = "cvpr" if native == 448 else "native"
    if mode == "native":
        return native, native
    if mode == "cvpr":
        side = 672 if dataset == "DAVIS" else 448
        return side, side
    sides = mode.removeprefix("fixed").split(",")
    if mode.startswith("fixed") and len(sides) <= 2 and all(s.isdigit() and int(s) > 1 for s in sides):
        return int(sides[0]), int(sides[-1])
    raise ConfigError(f"unknown zoom mode {mode!r}; use auto, native, cvpr, fixedN or fixedN,M")


def evaluate(run: Run, root: Path, out: Path, devices: list[str], jobs: int, overlays: bool) -> dict[str, Any]:
    """Plays all objects not yet played and writes the results.

    Raises:
        ConfigError: `out` holds another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    objects = load_benchmark(run.dataset, root, run.limit)
    log = out / "objects.jsonl"
    rows = resume(log, run.header)
    pictures = out / "overlays" if overlays else None
    if pictures:
        pictures.mkdir(exist_ok=True)
        rows = {name: row for name, row in rows.items() if (pictures / f"{name}.jpg").exists()}
    todo = [item for item in objects if item.name not in rows]
    with log.open("a") as file, tqdm(total=len(objects), initial=len(rows), unit="object", desc=run.dataset) as bar:
        for row in _play_all(run, todo, devices, jobs, pictures):
            rows[row["name"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            bar.update()
            bar.set_postfix(clicks=f"{_clicks_so_far(rows.values(), run.target_iou or 0.9):.2f}")
    skipped = {item.name: rows[item.name]["skipped"] for item in objects if "skipped" in rows[item.name]}
    ordered = [rows[item.name] for item in objects if item.name not in skipped]
    if not ordered:
        raise ConfigError(f"every object of {root} was skipped: {next(iter(skipped.values()))}")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    results = {**summarise(ordered, run.target_iou, MAX_CLICKS), **_facts(run, devices), "skipped": skipped}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    save_curve(ordered, results, MAX_CLICKS, out / "curve.png")
    return results


def _clicks_so_far(rows: Iterable[Mapping[str, Any]], target: float) -> float:
    """Mean number of clicks to the target."""
    played = [row["ious"] for row in rows if "ious" in row]
    return click_count(played, target, MAX_CLICKS).noc if played else 0.0


def _facts(run: Run, devices: list[str]) -> dict[str, Any]:
    annotator = {"click_spread": run.spread, "seed": run.seed}
    if run.server:
        told = {"dataset": run.dataset, "server": run.server, "model": run.weights}
        return {**told, "as_served": run.served, "target_iou": run.target_iou, **annotator}
    weights = load(run.weights)
    return {
        "dataset": run.dataset,
        "weights": {
            "name": weights.name,
            "sha256": weights.sha256,
            "path": str(weights.path) if weights.path else None,
        },
        "profile": run.profile,
        "runtime": find_runtime(run.runtime, torch.device(devices[0])),
        "target_size": run.size,
        **weights.serving.as_mapping(),
        "refinement_pass": weights.serving.refinement_pass if run.second_look is None else run.second_look,
        "as_served": run.served,
        "box": run.box,
        "target_iou": run.target_iou,
        **annotator,
        "devices": devices,
    }


def _play_all(
    run: Run, todo: list[EvalObject], devices: list[str], jobs: int, overlays: Path | None
) -> Iterator[dict[str, Any]]:
    processes = min(len(devices) * jobs, len(todo))
    threads = Settings.from_environment().threads or max(1, (os.cpu_count() or 1) // max(processes, 1))
    if processes <= 1:
        if todo:
            worker = Worker(run, devices[0], threads, overlays)
            yield from map(worker, todo)
        return
    context = multiprocessing.get_context("spawn")
    queue: Any = context.SimpleQueue()
    for index in range(processes):
        queue.put(devices[index % len(devices)])
    with ProcessPoolExecutor(processes, context, _start_worker, (run, queue, threads, overlays)) as pool:
        try:
            for done in as_completed([pool.submit(_play_one, item) for item in todo]):
                yield done.result()
        except BrokenProcessPool as error:
            raise ConfigError("a process died, most likely for lack of memory: try fewer --jobs") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: Worker | None = None  # of a child process


def _start_worker(run: Run, devices: Any, threads: int, overlays: Path | None) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    _worker = Worker(run, devices.get(), threads, overlays)


def _play_one(item: EvalObject) -> dict[str, Any]:
    assert _worker is not None
    return _worker(item)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", help="name or path of the weights (default: starter)")
    parser.add_argument(
        "--dataset",
        required=True,
        choices=list(BENCHMARKS),
        help="benchmark; folder, label-maps; shard, mosaic, never-trained",
    )
    parser.add_argument("--root", type=Path, required=True, help="the data set's own folder, or the zip shard")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--limit", type=int, metavar="N", help="only N objects, spread over the set")
    parser.add_argument("--profile", choices=list(PROFILES), help="exact (default) or fast")
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto", help="auto (default), torch or openvino")
    parser.add_argument(
        "--mode",
        default="auto",
        help="the network's input: native (the weights' own size), cvpr (448, 672 on DAVIS), fixedN or fixedN,M; "
        "auto (default) is cvpr for weights made for 448 and native for others",
    )
    parser.add_argument("--target-iou", type=float, default=0.9, metavar="IOU", help="stop an object there (0.9)")
    parser.add_argument("--all-clicks", action="store_true", help="play all 20 clicks, for mIoU and AuC")
    parser.add_argument(
        "--as-served",
        choices=["ordered", "unordered"],
        help="stateless, as Label Studio (ordered) or CVAT (unordered) call it, at the weights' input size",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help="play against a CVAT function, deployed or served by serverless.local, which gets only what CVAT sends; "
        "options about the network are then the function's own",
    )
    parser.add_argument(
        "--box",
        choices=[f"{guess}{centre}" for guess in ("none", "ellipse", "box") for centre in ("", "+centre")],
        help="start each object with its box, turned into a first guess this way; clicks then correct the answer",
    )
    parser.add_argument(
        "--click-spread",
        type=float,
        default=0.0,
        metavar="S",
        help="how far from the middle of the error the annotator clicks: 0 (default) in it, as published, "
        "0.5 anywhere at least half as deep, 1 anywhere in the error",
    )
    parser.add_argument("--seed", type=int, help="of --click-spread's randomness (0)")
    parser.add_argument(
        "--second-look",
        choices=["yes", "no"],
        help="whether a first click's answer is looked at again, closer (default: as the weights' config says)",
    )
    parser.add_argument("--device", default="cpu", help="one device, or several separated by commas (cpu)")
    parser.add_argument("--jobs", type=int, default=1, help="processes on each device (1)")
    parser.add_argument("--overlays", action="store_true", help="write a picture of every click of every object")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    args = _parser().parse_args(argv)
    told = f"stopped; what was played is kept, run the same command to go on: {args.out}"
    return exit_status(lambda: _evaluate(args), told)


def _evaluate(args: argparse.Namespace) -> int:
    if not 0 < args.target_iou <= 1:
        raise ConfigError(f"--target-iou must lie in (0, 1], got {args.target_iou}")
    if args.jobs < 1 or (args.limit is not None and args.limit < 1):
        raise ConfigError("--jobs and --limit start at 1")
    if not 0 <= args.click_spread <= 1:
        raise ConfigError(f"--click-spread must lie in [0, 1], got {args.click_spread}")
    if args.seed is not None and not args.click_spread:
        raise ConfigError("--seed goes with --click-spread")
    if (args.as_served or args.box) and args.mode not in ("auto", "native"):
        raise ConfigError("--as-served and --box play at the weights' own input size; leave --mode out")
    if args.server and (
        args.as_served or args.box or args.mode != "auto" or args.weights or args.profile or args.second_look
    ):
        raise ConfigError(
            "--server has settings of its own; leave out --weights, --profile, --as-served, --box, --mode and "
            "--second-look"
        )
    args.weights, args.profile = args.weights or "starter", args.profile or "exact"
    if args.server:
        identity = args.weights = args.profile = model_of(args.server) or "unknown"
        size = 0, 0
    else:
        weights = load(args.weights)
        identity, native = weights.identity, network_config(weights.config).img_size
        mode = "native" if args.as_served or args.box else args.mode
        size = target_size(mode, args.dataset, native)
        meta_network(weights.config).check_size(*size)
    devices = [str(find_device(name)) for name in args.device.split(",")]
    run = Run(
        weights=args.weights,
        identity=identity,
        dataset=args.dataset,
        root=str(args.root.resolve()),
        profile=args.profile,
        size=size,
        target_iou=None if args.all_clicks else args.target_iou,
        served="unordered" if args.server else args.as_served,
        box=args.box,
        limit=args.limit,
        server=args.server,
        runtime=args.runtime,
        spread=args.click_spread,
        seed=args.seed or 0,
        second_look={"yes": True, "no": False}.get(args.second_look),
    )
    results = evaluate(run, args.root, args.out, devices, args.jobs, args.overlays)
    print_table(results)
    print(f"\nwritten to {args.out}: results.json, curve.png, objects.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
