"""How the commands here end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from icmformer.errors import IcmformerError


def exit_status(work: Callable[[], int], stopped: str) -> int:
    """Does a command's work and says in a line what went wrong.

    Args:
        work: The work; returns the command's exit status.
        stopped: What to say after Ctrl-C.

    Returns:
        The work's own status; 2 for a user's mistake or a file that cannot be used, 130 for Ctrl-C.
    """
    try:
        return work()
    except (IcmformerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
