"""`python -m training.train CONFIG --data-root DIR --out DIR`: trains a network; run it again to go on."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from icmformer.errors import IcmformerError
from training.config import load_config
from training.data.shards import Shards
from training.loop import Trainer, batches, run, save_checkpoint
from training.samples import SampleSet


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML config, see training/configs")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the zip shards")
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoint.pt and log.jsonl")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    parser.add_argument("--threads", type=int, help="CPU threads of the network")
    parser.add_argument("--time-budget", type=float, metavar="MIN", help="save and stop after so many minutes")
    args = parser.parse_args(argv)
    try:
        return _train(args)
    except (IcmformerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    if args.threads:
        torch.set_num_threads(args.threads)
    samples = SampleSet(Shards([args.data_root / name for name in config.data.shards]), config)
    trainer = Trainer(config, torch.device(args.device))
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load_state_dict(torch.load(checkpoint, map_location=args.device, weights_only=True)["state"])
        print(f"going on after {trainer.seen:,} samples")
    stop = {"asked": False}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.update(asked=True))
    deadline = time.monotonic() + 60 * args.time_budget if args.time_budget else float("inf")
    args.out.mkdir(parents=True, exist_ok=True)
    with (
        (args.out / "log.jsonl").open("a") as log_file,
        tqdm(total=config.samples, initial=trainer.seen, unit="sample", mininterval=10) as bar,
    ):

        def log(values: dict[str, float]) -> None:
            bar.update(config.batch)
            bar.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)
            log_file.write(json.dumps({"seen": trainer.seen, "time": time.time(), **values}) + "\n")

        run(
            trainer,
            batches(samples, config, trainer.seen, args.workers),
            save=lambda: save_checkpoint(trainer, checkpoint, asdict(config)),
            log=log,
            should_stop=lambda: stop["asked"] or time.monotonic() > deadline,
        )
    print(f"saved after {trainer.seen:,} samples: {checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
