"""Trains a network: `python -m training.train CONFIG --data-root DIR --out RUN`.

Run the same command again to go on where it stopped, were it by Ctrl-C, a time budget or a kill. RUN holds
checkpoint.pt, best.pt (the fewest clicks on the validation photos), log.jsonl and tensorboard/. For several GPUs or
machines: `torchrun --nproc-per-node N -m training.train ...`.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from icmformer.errors import ConfigError, IcmformerError
from icmformer.inference.profiles import find_device
from icmformer.models import meta_network
from training.data.records import Photos, open_photos
from training.loop.checkpoints import CheckpointWriter, load_checkpoint
from training.loop.config import TrainConfig, load_config, stages
from training.loop.initial_weights import starting_network
from training.loop.monitor import Monitor
from training.loop.plan import plan
from training.loop.processes import Processes, joined
from training.loop.samples import SampleSet
from training.loop.trainer import Trainer, batches
from training.loop.validation import Validation

_CHECKPOINT, _BEST = "checkpoint.pt", "best.pt"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="YAML config, see training/configs")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the shards and folders it names")
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="check network, data and schedule, tell the cost; no more"
    )
    parser.add_argument("--tflops", type=float, default=150, help="sustained, for the cost of --dry-run (150)")
    parser.add_argument("--start", help="weights to begin with: a backbone's file, or a name or path of weights")
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one; the default), cpu, cuda or cuda:N"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples, for each process (1)")
    parser.add_argument("--threads", type=int, help="CPU threads of the network (torch's choice)")
    parser.add_argument(
        "--profile-steps", type=int, default=0, metavar="N", help="record N steps: RUN/profile.txt and profile.json"
    )
    parser.add_argument("--time-budget", type=float, metavar="MIN", help="save and stop after so many minutes")
    parser.add_argument("--save-minutes", type=float, default=5, metavar="MIN", help="between checkpoints (5)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0; 2 for a mistake, 130 after Ctrl-C or another signal to stop.
    """
    args = _parser().parse_args(argv)
    try:
        if args.workers < 0 or (args.threads is not None and args.threads < 1) or args.profile_steps < 0:
            raise ConfigError("--workers starts at 0, --profile-steps too, --threads at 1")
        if args.out is None and not args.dry_run:
            raise ConfigError("--out is needed: the run's folder")
        config = load_config(args.config)
        device = find_device(args.device)
        if args.threads:
            torch.set_num_threads(args.threads)
        with joined(device) as processes:
            _check(config, processes)
            if args.dry_run:
                text, missing = plan(config, args)
                print(text)
                if missing:
                    raise missing
                return 0
            return Run(config, args, device, processes)()
    except (IcmformerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _check(config: TrainConfig, processes: Processes) -> None:
    """Finds now what a later stage would stumble over.

    Raises:
        ConfigError: A batch that the processes cannot share.
        InputSizeError: A size that the network cannot take.
    """
    network = meta_network(config.network)
    for stage in stages(config):
        if stage.config.batch % (processes.world * stage.config.accumulate):
            raise ConfigError(
                f"{processes.world} processes with {stage.config.accumulate} parts each cannot share a batch of "
                f"{stage.config.batch} evenly"
            )
        network.check_size(stage.config.size, stage.config.size)


class Run:
    """One process's part in a run, from where its folder says it stands to its end, its time budget or a signal."""

    def __init__(
        self, config: TrainConfig, args: argparse.Namespace, device: torch.device, processes: Processes
    ) -> None:
        self.args, self.processes = args, processes
        self.photos: Photos = open_photos(args.data_root, config.data.shards)
        self.validation = None
        if config.validation.every:
            self.validation = Validation(args.data_root / config.validation.shard, config.validation.limit)
        self.trainer = Trainer(config, device)
        self.best = math.inf
        self.asked_to_stop = False
        self.profile: Any = None
        self.checkpoints = CheckpointWriter()
        self.started = self.saved = time.monotonic()

    def __call__(self) -> int:
        """Trains.

        Returns:
            0 at the end of the run or of its time budget. After a signal 130, unless torchrun would take that for a
            fault and start all over.
        """
        trainer, processes, out = self.trainer, self.processes, self.args.out
        self._begin()
        config = trainer.whole
        monitor = Monitor(out, trainer.seen, config.samples, config.pictures) if processes.first else None
        with self.checkpoints, monitor or nullcontext(), _on_signals(self._stop), self._profiled():
            while trainer.next_stage() and not self._over():
                self._stage(monitor)
            if processes.first:
                self._save()
        if processes.first:
            print(f"saved after {trainer.seen:,} samples: {out / _CHECKPOINT}")
            if trainer.next_stage():
                print(f"stopped at {trainer.seen:,} of {config.samples:,} samples; the same command goes on")
        return 130 if self.asked_to_stop and processes.world == 1 else 0

    def _profiled(self) -> AbstractContextManager[Any]:
        """Records `--profile-steps` steps of the first process, after three for warming up."""
        steps = self.args.profile_steps
        if not steps or not self.processes.first:
            return nullcontext()
        from torch.profiler import ProfilerActivity, profile, schedule

        def done(profiler: Any) -> None:
            profiler.export_chrome_trace(str(self.args.out / "profile.json"))
            order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            table = profiler.key_averages().table(sort_by=order, row_limit=25)
            (self.args.out / "profile.txt").write_text(table + "\n")
            print(f"profile of {steps} steps: {self.args.out / 'profile.txt'}, profile.json (chrome://tracing)")

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        plan = schedule(wait=2, warmup=1, active=steps, repeat=1)
        self.profile = profile(activities=activities, schedule=plan, on_trace_ready=done)
        return self.profile

    def _begin(self) -> None:
        checkpoint, trainer = self.args.out / _CHECKPOINT, self.trainer
        if checkpoint.exists():
            self.best, changed = load_checkpoint(trainer, checkpoint)
            told = f"going on after {trainer.seen:,} samples"
            if changed:
                told += f" with another config than before ({', '.join(changed)})"
        elif self.args.start is not None:
            network, told = starting_network(trainer.whole.network, self.args.start)
            trainer.start_from(network)
        else:
            frozen = [p for p, factor in trainer.config.optim.lr_factors.items() if not factor]
            if frozen:
                raise ConfigError(f"{', '.join(frozen)} would be frozen at random values: give --start")
            told = "starts from random values"
        if len(set(self.processes.gather(trainer.seen))) > 1:
            raise ConfigError("not all processes see the same checkpoint: --out must be a folder that they share")
        if self.processes.first:
            print(f"{told}; {len(self.photos.records):,} photos", flush=True)

    def _stage(self, monitor: Monitor | None) -> None:
        trainer, processes = self.trainer, self.processes
        samples = SampleSet(self.photos, trainer.config)
        source = batches(samples, trainer.stage, trainer.seen, self.args.workers, processes.rank, processes.world)
        ended = time.monotonic()
        for batch in source:
            got = time.monotonic()
            before = trainer.seen
            result = trainer.train_step(batch)
            if monitor:
                monitor.step(trainer.seen, result, time.monotonic() - ended, got - ended)
            ended = time.monotonic()
            if self.profile:
                self.profile.step()
            every = trainer.config.validation.every
            if every and trainer.seen // every > before // every:
                self._validate(monitor)
            if self._over():
                return
            if processes.first and time.monotonic() - self.saved > 60 * self.args.save_minutes:
                self._save()

    def _validate(self, monitor: Monitor | None) -> None:
        assert self.validation is not None
        figures = self.validation(self.trainer.average.network, self.trainer.config.size, self.processes)
        if monitor:
            monitor.validation(self.trainer.seen, figures)
            if figures["noc90"] < self.best:
                self.best = figures["noc90"]
                self.checkpoints.save(self.trainer, self.args.out / _BEST, self.best)
            self._save()

    def _save(self) -> None:
        self.checkpoints.save(self.trainer, self.args.out / _CHECKPOINT, self.best)
        self.saved = time.monotonic()

    def _over(self) -> bool:
        budget = self.args.time_budget
        late = budget is not None and time.monotonic() - self.started > 60 * budget
        return self.processes.any(self.asked_to_stop or late)

    def _stop(self, number: int, frame: object) -> None:
        self.asked_to_stop = True
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait for the step to end


@contextmanager
def _on_signals(action: Callable[[int, Any], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, action) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
