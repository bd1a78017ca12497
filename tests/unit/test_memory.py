"""Freed memory goes back to the operating system."""

import os
import platform
import subprocess
import sys

import pytest

SETTINGS = {"MALLOC_TRIM_THRESHOLD_": "2000000000"}
PROGRAM = """
import os
from icmformer import memory
def held(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
blocks = [bytes(bytearray(60_000)) for _ in range(4000)]  # 240 MB in pieces that malloc does not map one by one
kept = blocks[::40]
full = held()
del blocks
memory.release()
assert held() < full - 150e6, (full, held())
assert all(not any(block) for block in kept)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_what_was_freed_is_given_back_and_what_is_held_is_not():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=os.environ | SETTINGS)
