"""Which photos of the shards are never trained on; `held_out.txt` beside this file lists them.

`python -m training.data.held_out SHARD...` prints the list for other shards.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")
HELD_OUT_SETS = frozenset({"dsb2018", "solar", "facade", "virus_em"})
"""Sets that no network is trained on, to see how it does on kinds of photos it has never met."""


def held_out(set_name: str, key: str) -> bool:
    """Whether a photo is never trained on: whole sets, and a tenth of every other set, picked by hash of its key."""
    return set_name in HELD_OUT_SETS or hashlib.sha256(key.encode()).digest()[0] % 10 == 0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from icmformer.errors import IcmformerError
    from training.data.shards import open_shard

    parser = argparse.ArgumentParser(prog="python -m training.data.held_out", description=__doc__)
    parser.add_argument("shards", type=Path, nargs="+", help="zip shards")
    args = parser.parse_args(argv)
    try:
        for path in args.shards:
            for record in open_shard(path, include_held_out=True).records:
                if held_out(record.set, record.key):
                    print(record.set, record.key)
    except (IcmformerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
