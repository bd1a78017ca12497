"""Is the training sound? Trains a tiny network on five images until it knows them: `python -m training.overfit`.

A loop, a loss or a click sampler that is wrong does not get there. The images are scikit-image's, their outlines drawn
by hand; minutes on a laptop's CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .command_line import command_parser, exit_status
from .tools.overfit import overfit

ENOUGH = 0.95


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0 where an IoU over 0.95 is reached everywhere, 1 where not; 2 for a mistake, 130 for Ctrl-C.
    """
    parser = command_parser("overfit", __doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"), help="folder for everything (runs/overfit)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    args = parser.parse_args(argv)
    return exit_status(lambda: _overfit(args), "stopped", args.out)


def _overfit(args: argparse.Namespace) -> int:
    ious = overfit(args.out, args.threads)
    if ious is None:
        return 130
    for name, iou in ious.items():
        print(f"{name:<12} IoU after one click {iou:.3f}")
    known = min(ious.values()) > ENOUGH
    print(
        "learned: every image is segmented from one click"
        if known
        else f"NOT learned: an IoU of {ENOUGH} is not reached everywhere"
    )
    return 0 if known else 1


if __name__ == "__main__":
    sys.exit(main())
