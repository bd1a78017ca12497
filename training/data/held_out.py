"""Which images of the shards are held out; `held_out.txt` beside this file lists set and key of each."""

from __future__ import annotations

import hashlib

HELD_OUT_SETS = frozenset({"dsb2018", "solar", "facade", "virus_em"})
"""Sets that no network is trained on, to see how it does on kinds of images it has never met."""


def held_out(set_name: str, key: str) -> bool:
    """Whether an image is held out: whole sets, and a tenth of every other set, picked by hash of its key."""
    return set_name in HELD_OUT_SETS or hashlib.sha256(key.encode()).digest()[0] % 10 == 0
