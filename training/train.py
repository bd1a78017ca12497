"""Trains a network: `python -m training.train CONFIG --data-root DIR --out RUN`.

Run the same command again to go on where it stopped, whether after Ctrl-C, a time budget or a kill. RUN holds
checkpoint.pt, best.pt (the fewest clicks on the validation images), log.jsonl and tensorboard/. For several GPUs or
machines: `torchrun --nproc-per-node N -m training.train ...`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from icmformer.errors import ConfigError

from .command_line import command_parser, exit_status, given, positive_number
from .loop.config import load_config
from .loop.plan import plan
from .loop.processes import world_size
from .loop.run import RunOptions, no_network, train


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("train", __doc__)
    parser.add_argument("config", type=Path, help="YAML config, see training/configs")
    parser.add_argument(
        "--data-root", type=Path, required=True, help="folder of the shards and folders that the config names"
    )
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check network, data and schedule and estimate the cost, without training",
    )
    parser.add_argument(
        "--no-network",
        action="store_true",
        help="measure how fast samples and correcting clicks come, without a network, for --time-budget (0.25 MIN)",
    )
    parser.add_argument(
        "--tflops", type=positive_number, default=150, help="sustained TFLOPS, to estimate the cost in --dry-run (150)"
    )
    parser.add_argument(
        "--start",
        metavar="W",
        help="weights to begin with: a backbone's file, augreg:FILE for one trained with mean and std 0.5, timm:NAME, "
        "or a name or path of weights",
    )
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one; the default), cpu, cuda or cuda:N"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        dest="compiled",
        help="let torch compile the network: the first steps take a minute or two, the others less time on a GPU",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples, for each process (1)")
    parser.add_argument(
        "--image-memory",
        type=float,
        metavar="GB",
        help="decoded images to keep in memory, for all workers together (a quarter of what is free)",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads of the network and of the correcting clicks (torch's choice)"
    )
    parser.add_argument(
        "--profile-steps", type=int, default=0, metavar="N", help="record N steps: RUN/profile.txt and profile.json"
    )
    parser.add_argument("--time-budget", type=float, metavar="MIN", help="save and stop after this many minutes")
    parser.add_argument(
        "--anneal", action="store_true", help="let the learning rate's schedule end with --time-budget, if not earlier"
    )
    parser.add_argument("--save-minutes", type=float, default=5, metavar="MIN", help="minutes between checkpoints (5)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0 at the end of the run or of its time budget; 2 for a mistake, 130 after Ctrl-C or another signal to stop,
        unless torchrun would take that for a fault and start all over.
    """
    args = _parser().parse_args(argv)
    return exit_status(lambda: _train(args), "stopped", args.out)


def _train(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    if args.dry_run:
        text, missing = plan(config, args.data_root, args.start, args.tflops)
        print(text)
        if missing:
            raise missing
        return 0
    if args.no_network:
        print(no_network(config, RunOptions(**{"out": Path(), **given(args, RunOptions)})))
        return 0
    if args.out is None:
        raise ConfigError("--out is needed: the run's folder")
    result = train(config, RunOptions(**given(args, RunOptions)))
    return 130 if result.signalled and world_size() == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
