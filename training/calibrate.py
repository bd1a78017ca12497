"""How well scores tell masks apart: `python -m training.calibrate --weights W --root val-000.zip`.

Makes some clicks on each object and sets the scores beside the IoUs that the masks really have: mean absolute error
and correlation for several sharpnesses (see `icmformer.inference.engine.expected_iou`), how often a bad mask has the
lower score, and what a score is worth. `*` marks the weights' own sharpness, `score_sharpness` in their config.json.
"""

from __future__ import annotations

import sys

from .command_line import add_measured_objects, command_parser, exit_status, measured
from .evaluation.calibration import calibrate


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("calibrate", __doc__)
    add_measured_objects(parser, 120)
    parser.add_argument("--clicks", type=int, default=4, help="clicks on each (4)")
    args = parser.parse_args(argv)
    return exit_status(lambda: print(calibrate(*measured(args), args.clicks)), "stopped")


if __name__ == "__main__":
    sys.exit(main())
