"""`python -m training.profile_click`: the five costliest operations of a later click, before and after.

Before is the published path (the whole network on crop and mirror image, fp32, torch); after is what `exact` runs on a
kept crop: the mask decoder on the same two, with torch and with OpenVINO. Times are medians of one process, by the
profilers of torch and OpenVINO.
"""

from __future__ import annotations

import sys

import torch

from .command_line import command_parser, exit_status, new_file, positive
from .tools.click_profile import profile_clicks, table
from .tools.machine import machine
from .tools.speed_figures import PUBLISHED


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("profile_click", __doc__)
    parser.add_argument("--weights", default=PUBLISHED, help=f"weights of a plain ViT ({PUBLISHED})")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (2)")
    parser.add_argument("--repeats", type=positive, default=5, help="how often each click is timed (5)")
    parser.add_argument("--output", type=new_file(), metavar="FILE", help="also write the table")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    def work() -> None:
        columns = profile_clicks(args.weights, args.threads, args.repeats)
        text = f"{args.weights}; {machine()}; {args.threads} threads, medians of {args.repeats}\n\n{table(columns)}\n"
        print(text, end="")
        if args.output:
            args.output.write_text(text)

    return exit_status(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
