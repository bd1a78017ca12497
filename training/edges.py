"""What a click within a pixel of an image's edge finds: `python -m training.edges --weights W --root train-001.zip`.

Of each object that reaches a corner, or the edge for six pixels or more, the pixel there is clicked: the corner's, or
the middle one of the stretch. For each margin (see `ServingDefaults.click_margin`) the IoU of the mask with the object,
and how often nothing is found, before the engine falls back on a guess.
"""

from __future__ import annotations

import sys

from .command_line import add_measured_objects, command_parser, exit_status, measured
from .evaluation.edge_clicks import measure_edges, table


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("edges", __doc__)
    add_measured_objects(parser, 700)
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 5], help="pixels of the network's input (0 5)")
    args = parser.parse_args(argv)
    return exit_status(lambda: print(table(measure_edges(*measured(args), args.margins))), "stopped")


if __name__ == "__main__":
    sys.exit(main())
