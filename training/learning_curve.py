"""The log of a training in several runs, as one table and one picture: `python -m training.learning_curve RUN...`.

RUN are run folders in the order in which they went on from one another; samples and hours add up over them. Hours are
those in which steps were made: neither validations count nor pauses, which are gaps of ten times a usual step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .command_line import command_parser, exit_status, new_file, positive
from .tools.learning_curve import as_markdown, read, save_picture, save_table


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("learning_curve", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, in order")
    parser.add_argument("--csv", type=new_file(".csv"), help="table to write")
    parser.add_argument("--picture", type=new_file(".png"), help="picture to write")
    parser.add_argument("--every", type=positive, default=1024, help="samples that a line of the table averages (1024)")
    args = parser.parse_args(argv)
    return exit_status(lambda: _learning_curve(args), "stopped")


def _learning_curve(args: argparse.Namespace) -> int:
    points = list(read(args.runs, args.every))
    if args.csv:
        save_table(points, args.csv)
    if args.picture:
        save_picture(points, args.picture)
    print(as_markdown(points))
    print(f"\n{points[-1].samples:,} samples in {points[-1].hours:.2f} hours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
