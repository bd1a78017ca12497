"""What the processor can do that decides how fast a network runs on it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FLAGS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "AMX": ("amx_tile",),
}
"""Instruction set -> what Linux calls the features that make it up, of which one is enough."""


@cache
def instruction_sets() -> tuple[str, ...]:
    """Of AVX2, AVX-512, VNNI (products of int8), bf16 and AMX, those that the processor has.

    Nothing where the system does not tell: on Linux alone it does.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return ()
    lines = cpuinfo.read_text().splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return tuple(name for name, needed in _FLAGS.items() if any(flag in flags for flag in needed))
