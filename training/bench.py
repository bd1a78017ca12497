"""`python -m training.bench`: what a click costs, as ratios to the published path measured in the same run.

The published path runs the whole network on the crop and its mirror image in fp32 and keeps nothing. A later click is
the third on an object whose ROI stays, caches warm; a new object is the first click on another object of an image
that was clicked on before; a first click is one on an image never seen. Times are medians of one process. Where the
package `transformers` is installed, clicks of SAM with random weights are timed beside them. Ends with status 1 where
the baseline moved too far for ratios.
"""

from __future__ import annotations

import json
import sys

import torch

from .command_line import command_parser, exit_status, new_file, positive, positive_number
from .tools.speed_figures import PUBLISHED, measure_clicks, save_plot, table


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("bench", __doc__)
    parser.add_argument(
        "--weights", nargs="+", default=[PUBLISHED, "starter"], help=f"networks to time ({PUBLISHED} starter)"
    )
    parser.add_argument("--published", default=PUBLISHED, help=f"plain ViT of the baseline ({PUBLISHED})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (cpu)")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (2)")
    parser.add_argument("--repeats", type=positive, default=7, help="how often each click is timed (7)")
    parser.add_argument(
        "--megapixels",
        type=positive_number,
        nargs="+",
        default=[1, 12, 50],
        help="sizes of the images (1 12 50): all networks are timed at the first, the last network at the others too",
    )
    parser.add_argument(
        "--clients", type=positive, nargs="+", default=[1, 4, 16], help="clients at once, for throughput (1 4 16)"
    )
    parser.add_argument("--seconds", type=positive_number, default=5, help="seconds for each throughput figure (5)")
    parser.add_argument(
        "--drift",
        type=positive_number,
        default=10,
        metavar="PERCENT",
        help="how much the baseline may move between its timings before and after all else; beyond it no ratios (10)",
    )
    parser.add_argument("--json", type=new_file(), metavar="FILE", help="also write the figures")
    parser.add_argument("--plot", type=new_file(".png", ".svg", ".pdf"), metavar="FILE", help="also draw the ratios")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    def work() -> int:
        figures = measure_clicks(
            args.weights,
            args.published,
            args.device,
            args.repeats,
            args.megapixels,
            args.clients,
            args.seconds,
            args.drift / 100,
        )
        print(table(figures))
        if args.json:
            args.json.write_text(json.dumps(figures, indent=2) + "\n")
        if not figures["steady"]:
            return 1
        if args.plot:
            save_plot(figures, args.plot)
        return 0

    return exit_status(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
