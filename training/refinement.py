"""What the refinement pass is worth: `python -m training.refinement --weights W --root val-000.zip`.

Clicks once on each object and prints the mIoU of the first masks, and how often the network ran for each, if the pass
were made never, always, or only where the score of the first answer is under a limit.
"""

from __future__ import annotations

import sys

from .command_line import add_measured_objects, command_parser, exit_status, measured
from .evaluation.refinement import refinement_by_score


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("refinement", __doc__)
    add_measured_objects(parser, 120)
    args = parser.parse_args(argv)
    return exit_status(lambda: print(refinement_by_score(*measured(args))), "stopped")


if __name__ == "__main__":
    sys.exit(main())
