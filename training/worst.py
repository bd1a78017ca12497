"""The objects that weights are worst at, on one picture: `python -m training.worst OUT --picture FILE`.

Takes from OUT, which `training.evaluate` wrote, the hard cases: the objects that need the most clicks (those that never
get there first, by their IoU). Makes their masks after so many clicks again and draws what is right (grey), missed
(red) and too much (blue), with the clicks in their order, each as close as it fits. --photos draws over the images,
where what is right stays as it is; they may not be yours to pass on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .command_line import command_parser, exit_status, new_file
from .evaluation.hard_cases import draw_hard_cases


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("worst", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that training.evaluate wrote (its --out)")
    parser.add_argument(
        "--picture", type=new_file(".png", ".jpg", ".webp"), required=True, help="file to write: .png, .jpg or .webp"
    )
    parser.add_argument("--weights", default="starter", help="the weights that were evaluated (starter)")
    parser.add_argument("--count", type=int, default=30, metavar="N", help="objects (30)")
    parser.add_argument("--clicks", type=int, default=5, metavar="N", help="clicks to show the masks after (5)")
    parser.add_argument("--photos", action="store_true", help="draw over the images")
    args = parser.parse_args(argv)

    def work() -> None:
        drawn, other = draw_hard_cases(args.out, args.picture, args.weights, args.count, args.clicks, args.photos)
        if other:
            warning = f"{other} masks differ from those evaluated, on another machine or number of threads"
            print(warning, file=sys.stderr)
        print(f"{drawn} objects drawn to {args.picture}: IoU after {args.clicks} clicks > after the last")

    return exit_status(work, "stopped; nothing was written", args.picture)


if __name__ == "__main__":
    sys.exit(main())
