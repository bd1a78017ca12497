"""A training run, from where its folder says it stands to its end, its time budget or a signal."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from icmformer.diagnosis.machine import free_memory
from icmformer.errors import ConfigError, DiskFullError, IcmformerError, TrainingError, UnreadableImageError
from icmformer.inference.backends.torch import first_line, from_compiler, out_of_memory
from icmformer.inference.profiles import find_device

from ..data.decoded import Decoded
from ..data.sources import Images, open_images
from .checkpoints import BEST, CHECKPOINT, CheckpointWriter, load_checkpoint
from .config import TrainConfig, can_anneal
from .feed import FeedFigures, measure_feed
from .initial_weights import starting_network
from .monitor import Monitor
from .plan import check
from .processes import Processes, joined, on_signals
from .samples import Batch, SampleSet
from .trainer import StepResult, Trainer, batches
from .unreadable import Unreadable
from .validation import Validation

_MOST_GIGABYTES = 100_000


@dataclass(frozen=True)
class RunOptions:
    """Where a run finds and leaves its files, and what it may use of the machine.

    Attributes:
        data_root: Folder of the shards and folders that the config names.
        out: The run's folder; a run that it holds goes on.
        start: Weights to begin with: a backbone's file, `timm:` and a name, or a name or path of weights.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of the network; None leaves the choice to torch.
        workers: Processes that prepare samples, for each process that trains.
        image_memory: Gigabytes of decoded images to keep for each process that trains, shared by its workers; None for
            its share of a quarter of the free memory.
        compiled: Let torch compile the network, which takes a minute or two at the first steps.
        save_minutes: Between checkpoints.
        time_budget: Minutes after which the run saves and stops.
        anneal: Let the learning rate's schedule end with the time budget, if not earlier: for a run that no other
            goes on with.
        tell: Called with the number of samples seen, after each step.
        profile_steps: Steps to record in `out`'s profile.txt and profile.json.
    """

    data_root: Path
    out: Path
    start: str | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int = 1
    image_memory: float | None = None
    compiled: bool = False
    save_minutes: float = 5
    time_budget: float | None = None
    anneal: bool = False
    tell: Callable[[int], None] | None = None
    profile_steps: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0 or (self.threads is not None and self.threads < 1) or self.profile_steps < 0:
            raise ConfigError("--workers starts at 0, --profile-steps too, --threads at 1")
        if self.time_budget is not None and not 0 <= self.time_budget < math.inf:
            raise ConfigError(f"--time-budget must be 0 or more minutes, got {self.time_budget:g}")
        if not 0 <= self.save_minutes < math.inf:
            raise ConfigError(f"--save-minutes must be 0 or more, got {self.save_minutes:g}")
        if self.image_memory is not None and not 0 <= self.image_memory < _MOST_GIGABYTES:
            raise ConfigError(f"--image-memory must be 0 or more and under {_MOST_GIGABYTES:,} (GB)")
        if self.anneal and not self.time_budget:
            raise ConfigError("--anneal needs --time-budget: the learning rate ends with it")


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        finished: Whether it came to its end; else the same call goes on.
        signalled: Whether SIGINT or SIGTERM stopped it.
    """

    finished: bool
    signalled: bool


def train(config: TrainConfig, options: RunOptions) -> RunResult:
    """Trains, or goes on with the run that `options.out` holds, and prints how it stands.

    Under torchrun this is one process's part.

    Raises:
        IcmformerError: A config, data, weights or a checkpoint that cannot be used.
        OSError: A checkpoint or log that cannot be written; a `DiskFullError` where there is no room.
    """
    if options.anneal and not can_anneal(config):
        raise ConfigError("--anneal needs a schedule that falls: optim.schedule is `constant`")
    device = find_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    with joined(device) as processes:
        check(config, processes.world)
        return Run(config, options, device, processes)()


def no_network(config: TrainConfig, options: RunOptions) -> FeedFigures:
    """Measures the feed alone, for `time_budget` minutes or a quarter of one; writes nothing.

    Raises:
        ConfigError: Data that cannot be used.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    seconds = 15 if options.time_budget is None else 60 * options.time_budget
    images = open_images(options.data_root, config.data.shards, config.data.permissive)
    return measure_feed(config, _decoded(images, options), options.workers, seconds)


def _decoded(images: Images, options: RunOptions) -> Decoded:
    """The images; without `image_memory` as many stay as a quarter of what is free holds, none where nobody tells."""
    free, here = min(free_memory().values(), default=0), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    limit = free // (4 * here) if options.image_memory is None else int(options.image_memory * 1e9)
    return Decoded(images, limit)


class Run:
    """One process's part in a run."""

    def __init__(self, config: TrainConfig, options: RunOptions, device: torch.device, processes: Processes) -> None:
        self.options, self.processes = options, processes
        self.source = open_images(options.data_root, config.data.shards, config.data.permissive)
        self.images = _decoded(self.source, options)
        every, out = len(self.source.records) + len(self.source.unreadable), options.out if processes.first else None
        self.unreadable = Unreadable(out, every, config.data.unreadable)
        self.validation = None
        if config.validation.every:
            shard, limit = options.data_root / config.validation.shard, config.validation.limit
            self.validation = Validation(shard, limit, config.serving.threshold)
        self.trainer = Trainer(config, device, options.compiled)
        self.best = math.inf
        self.signalled = False
        self.failure: IcmformerError | None = None  # of this process alone, until all have met
        self.profile = _profile(options.out, options.profile_steps) if processes.first else None
        self.checkpoints = CheckpointWriter()
        self.begun = 0
        self.started = self.saved = time.monotonic()

    def __call__(self) -> RunResult:
        """Trains until the run ends or is stopped."""
        trainer, first, out = self.trainer, self.processes.first, self.options.out
        self._begin()
        config = trainer.whole
        monitor = Monitor(out, trainer.seen, config.samples, config.pictures) if first else None
        with self.checkpoints, monitor or nullcontext(), on_signals(self._stop), self.profile or nullcontext():
            while trainer.next_stage() and not self._over():
                self._stage(monitor)
            if first:
                with self._failing_later():
                    self._save()
                    self.checkpoints.wait()
            self._over()
        if first:
            print(f"saved after {trainer.seen:,} samples: {out / CHECKPOINT}")
        finished = not trainer.next_stage()
        if first and not finished:
            more = "" if self.options.anneal else "; run the same command again to continue"
            print(f"stopped at {trainer.seen:,} of {config.samples:,} samples{more}")
        if first and str(self.unreadable):
            print(self.unreadable)
        return RunResult(finished, self.signalled)

    def _begin(self) -> None:
        checkpoint, trainer, start = self.options.out / CHECKPOINT, self.trainer, self.options.start
        if checkpoint.exists():
            self.best, changed = load_checkpoint(trainer, checkpoint)
            told = f"going on after {trainer.seen:,} samples"
            if changed:
                told += f" with another config than before ({', '.join(changed)})"
        elif start is not None:
            network, told = starting_network(trainer.whole.network, start, trainer.whole.recipe)
            trainer.start_from(network)
        else:
            frozen = [p for p, factor in trainer.config.optim.lr_factors.items() if not factor]
            if frozen:
                raise ConfigError(f"{', '.join(frozen)} would be frozen at random values: give --start")
            told = "starts from random values"
        self.begun = trainer.seen
        if len(set(self.processes.gather(trainer.seen))) > 1:
            raise ConfigError("not all processes see the same checkpoint: --out must be a folder that they share")
        if self.processes.first:
            print("\n".join([*self.source.remarks, f"{told}; {len(self.images.records):,} images"]), flush=True)
        if self.processes.first and str(self.unreadable):
            print(f"before, {self.unreadable}", flush=True)
        found = [*self.source.unreadable, *(self.validation.unreadable if self.validation else [])]
        self.unreadable.add(found, trainer.seen)
        if self.unreadable.too_many:
            raise self.unreadable.too_many

    def _stage(self, monitor: Monitor | None) -> None:
        trainer, processes = self.trainer, self.processes
        samples = SampleSet(self.images, trainer.config)
        source = batches(samples, trainer.stage, trainer.seen, self.options.workers, processes.rank, processes.world)
        with closing(source):
            ended = time.monotonic()
            for batch in _taken(source):
                got = time.monotonic()
                if isinstance(batch, IcmformerError):
                    self.failure = batch
                if self._over(batch.passed_over if isinstance(batch, Batch) else ()):
                    return
                assert isinstance(batch, Batch)  # else it was raised
                before = trainer.seen
                result = self._step(batch)
                if monitor:
                    with self._failing_later():
                        monitor.step(trainer.seen, result, time.monotonic() - ended, got - ended)
                if self.options.tell and processes.first:
                    self.options.tell(trainer.seen)
                ended = time.monotonic()
                if self.profile:
                    self.profile.step()
                every = trainer.config.validation.every
                if every and trainer.seen // every > before // every:
                    self._validate(monitor)
                if processes.first and time.monotonic() - self.saved > 60 * self.options.save_minutes:
                    with self._failing_later():
                        self._save()

    def _step(self, batch: Batch) -> StepResult:
        progress = self.processes.gather(self._share_of_time())[0] if self.options.anneal else 0.0
        try:
            return self.trainer.train_step(batch, progress)
        except RuntimeError as error:
            reason = first_line(error)
            if out_of_memory(error):
                raise TrainingError(
                    f"the GPU has no memory left for a step ({reason}): raise `accumulate`, set "
                    "`gradient_checkpointing`, or lower `batch`; the last checkpoint is from before"
                ) from error
            if from_compiler(error):
                raise TrainingError(
                    f"torch cannot compile this network here ({reason}): install a C++ compiler, or leave out --compile"
                ) from error
            raise

    def _validate(self, monitor: Monitor | None) -> None:
        assert self.validation is not None
        figures = self.validation(self.trainer.average.network, self.trainer.config.size, self.processes)
        with self._failing_later():
            self.unreadable.add(self.validation.unreadable, self.trainer.seen)
            if figures is None:
                raise TrainingError(f"not one image of {self.validation.shard} can be read any more, to validate on")
            if monitor:
                monitor.validation(self.trainer.seen, figures)
                if figures["noc90"] < self.best:
                    self.best = figures["noc90"]
                    self.checkpoints.save(self.trainer, self.options.out / BEST, self.best)
                self._save()

    def _save(self) -> None:
        self.checkpoints.save(self.trainer, self.options.out / CHECKPOINT, self.best)
        self.saved = time.monotonic()

    @contextmanager
    def _failing_later(self) -> Iterator[None]:
        """Keeps an error until all processes meet, so that they end together."""
        try:
            yield
        except IcmformerError as error:
            self.failure = self.failure or error

    def _over(self, found: tuple[UnreadableImageError, ...] = ()) -> bool:
        """Whether the run stops here, for all processes alike.

        Args:
            found: Images that this process could not read.

        Raises:
            IcmformerError: Something failed in one of the processes. A checkpoint has been saved, if there is room.
        """
        with self._failing_later():
            self.checkpoints.check()
        stop = self.signalled or self._share_of_time() > 1
        met: list[tuple[bool, tuple[UnreadableImageError, ...], IcmformerError | None]]
        met = self.processes.gather((stop, found, self.failure))
        with self._failing_later():
            self.unreadable.add([error for _, errors, _ in met for error in errors], self.trainer.seen)
        failure = next((error for _, _, error in met if error), None) or self.unreadable.too_many
        if failure:
            self._end(failure)
        return any(stops for stops, _, _ in met)

    def _end(self, failure: IcmformerError) -> None:
        """Saves what has been learnt since the run began or went on, and raises what ended it."""
        if not self.processes.first or isinstance(failure, DiskFullError) or self.trainer.seen == self.begun:
            raise failure
        self._save()
        self.checkpoints.wait()
        saved = f"saved after {self.trainer.seen:,} samples; mend it, and run the same command again to go on"
        raise TrainingError(f"{failure}. {saved}: {self.options.out / CHECKPOINT}") from failure

    def _share_of_time(self) -> float:
        """How much of the time budget is spent; 0 without one."""
        budget, spent = self.options.time_budget, time.monotonic() - self.started
        if budget is None:
            return 0.0
        return spent / (60 * budget) if budget else math.inf

    def _stop(self, number: int, _frame: object) -> None:
        self.signalled = True
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait for the step to end


def _taken(source: Iterator[Batch]) -> Iterator[Batch | IcmformerError]:
    """The batches; an error is the last of them, as a value."""
    try:
        yield from source
    except IcmformerError as error:
        yield error


def _profile(out: Path, steps: int) -> profile | None:
    """Records `steps` steps, after three for warming up."""
    if not steps:
        return None
    cuda = torch.cuda.is_available()

    def done(profiler: profile) -> None:
        profiler.export_chrome_trace(str(out / "profile.json"))
        order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        (out / "profile.txt").write_text(profiler.key_averages().table(sort_by=order, row_limit=25) + "\n")
        print(f"profile of {steps} steps: {out / 'profile.txt'}, profile.json (chrome://tracing)")

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    plan = schedule(wait=2, warmup=1, active=steps, repeat=1)
    return profile(activities=activities, schedule=plan, on_trace_ready=done)
