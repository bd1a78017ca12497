"""The standard benchmarks, beside the published figures: `python -m training.results --data DIR --out OUT`.

`--data DIR` holds a folder for each benchmark, by its name (GrabCut, Berkeley, DAVIS, SBD, PascalVOC, COCO_MVal;
layouts as in docs/evaluation.md). Those that are there are evaluated, each as by `training.evaluate`, on all devices
and processes given; OUT/results.md is written anew after each. Stopped, the same command goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .command_line import add_processes, command_parser, exit_status
from .evaluation.standard_benchmarks import SETS, evaluate_benchmarks


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("results", __doc__)
    parser.add_argument("--weights", default="starter", help="name or path of the weights (starter)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the benchmarks' folders")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--sets", nargs="+", choices=SETS, metavar="NAME", help=f"of {', '.join(SETS)} (all there are)")
    parser.add_argument("--profile", choices=["exact", "fast"], default="exact", help="exact (default) or fast")
    parser.add_argument("--all-clicks", action="store_true", help="make all 20 clicks, for mIoU and AuC")
    parser.add_argument("--limit", type=int, metavar="N", help="only N objects of each, to try it")
    add_processes(parser)
    args = parser.parse_args(argv)

    def work() -> None:
        options = vars(args)
        evaluate_benchmarks(devices=options.pop("device").split(","), **options)

    return exit_status(work, f"stopped; run the same command to go on: {args.out}", args.out)


if __name__ == "__main__":
    sys.exit(main())
