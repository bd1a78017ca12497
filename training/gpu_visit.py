"""Everything worth doing on a machine with a GPU that is there for some minutes: `python -m training.gpu_visit run`.

Runs the `gpu` tests, the feed without a network, the click times of the networks and, for the rest of the time, a
training. Each part has a time of its own, writes what it gives as it goes, and does not keep the next from running.
`--device cpu` rehearses all of it without a GPU.

Where files travel only in small pieces: `split FILE... --to DIR` cuts them, `join DIR --to DATA` puts them together and
checks them; `run` leaves the averaged weights and the training's log as such pieces in OUT.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .command_line import command_parser, exit_status, given, positive, positive_number
from .tools.gpu_visit import PARTS, VisitOptions, visit
from .tools.pieces import join, missing, split


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("gpu_visit", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="do it")
    run.add_argument("--config", type=Path, required=True, help="YAML config of the training, see training/configs")
    run.add_argument("--data-root", type=Path, required=True, help="folder of the shards that the config names")
    run.add_argument("--out", type=Path, required=True, help="folder for what is to be brought back")
    run.add_argument("--start", help="weights that the training begins with")
    run.add_argument("--run", type=Path, default=Path("runs/visit"), help="the training's own folder (runs/visit)")
    run.add_argument("--minutes", type=positive_number, default=9.5, help="of the whole visit (9.5)")
    run.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cuda (default), or cpu to rehearse")
    run.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to do, in order (all)")
    run.add_argument(
        "--budget",
        nargs="+",
        type=_budget,
        default=[],
        metavar="PART=SECONDS",
        help="time of a part (tests=100 feed=30 bench=120); the training gets what is left",
    )
    run.add_argument("--workers", type=positive, help="processes that prepare samples (all cores but two)")
    run.add_argument("--compile", action="store_true", dest="compiled", help="let torch compile the network")
    cut = commands.add_parser("split", help="cut files into pieces")
    cut.add_argument("files", nargs="+", type=Path, metavar="FILE")
    cut.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for pieces.json and the pieces")
    cut.add_argument("--mib", type=positive, default=40, help="size of a piece (40)")
    whole = commands.add_parser("join", help="put files together again, as far as their pieces are there")
    whole.add_argument("folder", type=Path, metavar="DIR", help="folder of pieces.json and the pieces")
    whole.add_argument("--to", type=Path, required=True, metavar="DATA", help="folder for the files")
    return parser


def _budget(text: str) -> tuple[str, float]:
    part, sign, seconds = text.partition("=")
    try:
        if sign and part in PARTS:
            return part, positive_number(seconds)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be PART=SECONDS with a part of {', '.join(PARTS)}, got {text!r}")


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0; 1 where a part failed; 2 for a mistake, 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    return exit_status(lambda: {"run": _run, "split": _split, "join": _join}[args.command](args), "stopped")


def _run(args: argparse.Namespace) -> int:
    done = visit(VisitOptions(**given(args, VisitOptions), budgets=dict(args.budget)))
    print(f"\n{'part':<7} {'seconds':>7}  ended")
    for command in done:
        print(f"{command.part:<7} {command.seconds:>7.1f}  {command.ended}  {command.command}")
    return int(any(d.ended.startswith("failed") for d in done))


def _split(args: argparse.Namespace) -> int:
    for piece in split(args.files, args.to, args.mib * 2**20):
        print(piece, f"{piece.stat().st_size / 2**20:.1f} MiB")
    return 0


def _join(args: argparse.Namespace) -> int:
    whole = join(args.folder, args.to)
    for file in whole:
        print(file)
    if absent := missing(args.folder, whole):
        print(f"still missing: {', '.join(absent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
