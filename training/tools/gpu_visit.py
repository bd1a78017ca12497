"""What `training.gpu_visit` does in the minutes that a machine with a GPU is there."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from icmformer.errors import ConfigError
from icmformer.inference.profiles import find_device
from icmformer.models import meta_network

from ..data.sources import open_images
from ..loop.checkpoints import CHECKPOINT, export
from ..loop.config import can_anneal, load_config
from ..loop.initial_weights import starting_network
from ..loop.processes import on_signals
from ..loop.samples import SampleSet
from .pieces import split

_TRAINING = __package__.rpartition(".")[0]  # this package, by the name that it has here

NETWORKS = ("starter", *(f"random:icmformer_vit_{size}448" for size in ("base", "large", "huge")))
"""What is timed, one after the other: each writes its own figures."""
PARTS = ("tests", "feed", "bench", "train")
BUDGETS = {"tests": 100.0, "feed": 30.0, "bench": 120.0}
"""Seconds of each part but the training, which gets what is left."""
_STARTING = 15
"""Seconds in which a training begins, before its own time budget does, and in which it ends."""
_WRITTEN = 25e6
"""Bytes of averaged weights that are exported, packed and cut in a second."""
_GRACE = 15
"""Seconds from SIGINT to SIGKILL."""


@dataclass(frozen=True)
class VisitOptions:
    """A visit.

    Attributes:
        data_root: Folder of the shards that the config names.
        out: Folder for everything that is to be brought back; few, small files: `summary.json`, `logs.zip` with what
            each command wrote, and the pieces of what the training gave.
        config: Of the training.
        start: Weights to start it from; None for what is in `run`, or random values.
        run: The training's folder, which stays on the machine: a second visit there goes on.
        minutes: Of the whole visit.
        device: cpu or cuda.
        parts: What to do, in order.
        budgets: Seconds of parts, where others than `BUDGETS`.
        workers: Processes that prepare samples; None for all cores but two.
        compiled: Let torch compile the network that trains.
        piece: Bytes of a file that is brought back at most.
    """

    data_root: Path
    out: Path
    config: Path
    start: str | None = None
    run: Path = Path("runs/visit")
    minutes: float = 9.5
    device: str = "cuda"
    parts: Sequence[str] = PARTS
    budgets: dict[str, float] = field(default_factory=dict)
    workers: int | None = None
    compiled: bool = False
    piece: int = 15 * 2**20

    def __post_init__(self) -> None:
        unknown = set(self.parts) - set(PARTS) | set(self.budgets) - set(PARTS)
        if unknown:
            raise ConfigError(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        if self.minutes <= 0:
            raise ConfigError("--minutes must be over 0")

    @property
    def logs(self) -> Path:
        """Folder of what the commands write."""
        return self.run / "logs"


@dataclass
class Done:
    """How a command of a part ended.

    Attributes:
        part: The part.
        command: What ran, as one would type it.
        seconds: How long.
        ended: `passed`, `failed (STATUS)`, or why it was stopped or not run.
        log: The file of `logs.zip` with its output.
    """

    part: str
    command: str
    seconds: float
    ended: str
    log: str


def visit(options: VisitOptions) -> list[Done]:
    """Does the parts one after the other, each within its time, and leaves in `out` what they gave.

    What it needs is looked at first. A part that fails or hangs does not keep the next from running. `summary.json` is
    written anew after each command, so that a visit cut short has told what it knew. SIGTERM stops what is running, as
    Ctrl-C does.

    Raises:
        ConfigError: A config that cannot be read, or data that is not there.
        WeightsError: Weights to start from that cannot be used.
        DeviceError: A device that is not there.
        OSError: `out` cannot be written.
    """
    config = load_config(options.config)
    find_device(options.device)
    if {"feed", "train"} & set(options.parts):
        SampleSet(open_images(options.data_root, config.data.shards, config.data.permissive), config)
    if options.start and "train" in options.parts:
        starting_network(config.network, options.start)
    wrap_up = 10 + 4 * sum(p.numel() for p in meta_network(config.network).parameters()) / _WRITTEN
    ends = time.monotonic() + 60 * options.minutes - ("train" in options.parts) * wrap_up
    options.out.mkdir(parents=True, exist_ok=True)
    options.logs.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    _summary(options, done)
    ended = threading.Event()
    with on_signals(lambda _number, _frame: ended.set()):
        for part in options.parts:
            left = ends - time.monotonic()
            budget = min((BUDGETS | options.budgets).get(part, left), left)
            for command in _commands(part, options, time.monotonic() + budget):
                if not ended.is_set():
                    done.append(_run(part, command, options, ended))
                    _summary(options, done)
        if "train" in [command.part for command in done]:
            _bring_back(options)
    if ended.is_set():
        raise KeyboardInterrupt
    return done


@dataclass(frozen=True)
class _Command:
    words: Sequence[str]
    log: str
    until: float
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def typed(self) -> str:
        """As one would type it."""
        return "python -m " + " ".join(self.words)


def _commands(part: str, options: VisitOptions, until: float) -> Iterator[_Command]:
    """The commands of a part, made as they come: what a later one may take depends on the time that is left."""
    makers: dict[str, Callable[[VisitOptions, float], Iterator[_Command]]] = {
        "tests": _tests,
        "feed": _feed,
        "bench": _bench,
        "train": _train,
    }
    yield from makers[part](options, until)


def _tests(options: VisitOptions, until: float) -> Iterator[_Command]:
    on_cpu = {"ICMFORMER_GPU_REHEARSAL": "1"} if options.device == "cpu" else {}
    words = ["pytest", "-m", "gpu", "tests/gpu", "-n", str(min(6, cores())), "--dist", "loadfile"]
    words += ["-p", "no:cacheprovider", "-v", "--durations=10"]
    yield _Command(words, "tests.txt", until, on_cpu)


def _feed(options: VisitOptions, until: float) -> Iterator[_Command]:
    minutes = f"{max(until - time.monotonic(), 1) / 3 / 60:.3f}"
    words = [*_training(options), "--no-network", "--time-budget", minutes]
    yield _Command(words, "feed.txt", until)


def _bench(options: VisitOptions, until: float) -> Iterator[_Command]:
    for name in NETWORKS:
        short = name.removeprefix("random:").removeprefix("icmformer_")
        words = [
            f"{_TRAINING}.bench",
            "--device",
            options.device,
            "--weights",
            name,
            "--megapixels",
            "1",
            "--repeats",
            "5",
        ]
        words += [
            "--clients",
            "1",
            "4",
            "--seconds",
            "2",
            "--drift",
            "50",
            "--json",
            str(options.logs / f"bench_{short}.json"),
        ]
        yield _Command(words, f"bench_{short}.txt", until)


def _train(options: VisitOptions, until: float) -> Iterator[_Command]:
    minutes = f"{max(until - time.monotonic() - _STARTING, 1) / 60:.3f}"
    words = [*_training(options), "--out", str(options.run), "--device", options.device]
    words += ["--time-budget", minutes, "--save-minutes", "1"]
    words += ["--anneal"] if can_anneal(load_config(options.config)) else []
    words += ["--start", options.start] if options.start else []
    words += ["--compile"] if options.compiled else []
    yield _Command(words, "train.txt", until)


def _training(options: VisitOptions) -> list[str]:
    workers = max(cores() - 2, 1) if options.workers is None else options.workers
    return [f"{_TRAINING}.train", str(options.config), "--data-root", str(options.data_root), "--workers", str(workers)]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(part: str, command: _Command, options: VisitOptions, ended: threading.Event) -> Done:
    """Runs a command in a group of processes of its own, which is stopped when its time is up or the visit is ended."""
    started = time.monotonic()
    if started >= command.until:
        return Done(part, command.typed, 0.0, "not run: no time was left", "")
    print(f"== {part}: {command.typed} (up to {command.until - started:.0f} s)", flush=True)
    with (options.logs / command.log).open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command.words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **command.environment},
            start_new_session=True,
        )
        while process.poll() is None and time.monotonic() < command.until and not ended.wait(0.1):
            pass
        status = process.poll()
        _stop(process)
    told = "stopped: its time was up" if status is None else "passed" if status == 0 else f"failed ({status})"
    if ended.is_set():
        told = "stopped: the visit was ended"
    done = Done(part, command.typed, round(time.monotonic() - started, 1), told, command.log)
    print(f"   {done.ended} after {done.seconds} s; the end of {command.log}:\n{_tail(options.logs / command.log)}")
    return done


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGINT, _GRACE), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
    with suppress(ProcessLookupError):  # children that outlived it
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path, lines: int = 12, width: int = 300) -> str:
    """The last lines of a log; of progress bars what is on the screen in the end."""
    text = log.read_text(errors="replace")
    shown = [line.rsplit("\r", 1)[-1][:width] for line in text.replace("\r\n", "\n").splitlines() if line.strip()]
    return "\n".join(f"   | {line}" for line in shown[-lines:])


def _summary(options: VisitOptions, done: Sequence[Done]) -> None:
    about = {
        "machine": platform.machine(),
        "cores": cores(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "config": options.config.name,
        "minutes": options.minutes,
        "commands": [asdict(d) for d in done],
    }
    (options.out / "summary.json").write_text(json.dumps(about, indent=1) + "\n")
    shutil.make_archive(str(options.out / "logs"), "zip", options.logs)


def _bring_back(options: VisitOptions) -> None:
    """The averaged weights in fp32 and the training's log, as pieces that are small enough."""
    checkpoint = options.run / CHECKPOINT
    if not checkpoint.is_file():
        print("there is no checkpoint to bring back")
        return
    folder = options.run / "average"
    shutil.rmtree(folder, ignore_errors=True)
    export(checkpoint, folder, "average", "fp32")
    shutil.copy(options.run / "log.jsonl", folder)
    archive = Path(shutil.make_archive(str(options.run / "average"), "zip", folder))
    pieces = split([archive], options.out, options.piece)
    size = sum(piece.stat().st_size for piece in pieces) / 2**20
    print(f"{options.out}: averaged weights and log in {len(pieces)} pieces, {size:.1f} MiB")
    print("`join` makes average.zip of them; unpacked, its folder is what --weights and --start take")
