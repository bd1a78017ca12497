"""`python -m training.export RUN -o FOLDER`: the averaged weights of a training run in the native form."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from icmformer.weights.quantise import STORED

from .command_line import command_parser, exit_status
from .loop.checkpoints import CHECKPOINT, export


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("export", __doc__)
    parser.add_argument("run", type=Path, help="run folder, or a checkpoint in it")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--name", help="the weights' name (the output folder's)")
    parser.add_argument("--store", choices=STORED, default="fp16", help="how numbers are stored (fp16)")
    args = parser.parse_args(argv)
    return exit_status(lambda: _export(args), "stopped", args.output)


def _export(args: argparse.Namespace) -> int:
    path = args.run / CHECKPOINT if args.run.is_dir() else args.run
    seen = export(path, args.output, args.name or args.output.name, args.store)
    print(f"{args.output}: after {seen:,} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
