"""Lists the images of shards that are held out: `python -m training.tools.list_held_out SHARD...`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from training.command import exit_status
from training.data.held_out import held_out
from training.data.shards import open_shard


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.tools.list_held_out", description=__doc__)
    parser.add_argument("shards", type=Path, nargs="+", help="zip shards")
    args = parser.parse_args(argv)
    return exit_status(lambda: _list(args.shards), "stopped")


def _list(shards: list[Path]) -> int:
    for path in shards:
        for record in open_shard(path, include_held_out=True).records:
            if held_out(record.set, record.key):
                print(record.set, record.key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
