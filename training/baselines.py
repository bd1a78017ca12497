"""Segmenters without a network, same protocol: `python -m training.baselines --dataset NAME --root DIR --out DIR`.

`grabcut` is OpenCV's GrabCut with the clicks as seeds (Rother, Kolmogorov, Blake, 2004), `random-walker` scikit-image's
random walker (Grady, 2006). What they are told is what a network is told: the image and the clicks so far.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .command_line import add_dataset, command_parser, exit_status
from .evaluation.baselines import METHODS, evaluate_baseline
from .evaluation.report import print_table


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("baselines", __doc__)
    add_dataset(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, a folder a method below it")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="all by default")
    args = parser.parse_args(argv)

    def work() -> None:
        for method in args.methods:
            out = args.out / method
            print_table(evaluate_baseline(method, args.dataset, args.root, out, args.limit, args.all_clicks))

    return exit_status(work, f"stopped; run the same command to go on: {args.out}", args.out)


if __name__ == "__main__":
    sys.exit(main())
