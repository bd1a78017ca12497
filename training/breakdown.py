"""Where weights are good and where they are not: `python -m training.breakdown OUT`.

Reads what `training.evaluate` left in OUT and prints its stratified metrics, as Markdown: by data set, by the object's
share of its image, by whether it is thin and by whether it is in several pieces.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .command_line import command_parser, exit_status
from .evaluation.stratified import stratified_metrics


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("breakdown", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that training.evaluate wrote (its --out)")
    args = parser.parse_args(argv)
    return exit_status(lambda: print(stratified_metrics(args.out)), "stopped")


if __name__ == "__main__":
    sys.exit(main())
