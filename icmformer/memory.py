"""Memory of a long-lived process."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 16 << 20  # bytes


def release() -> None:
    """Gives freed memory back to the operating system; a few milliseconds.

    glibc keeps what was freed between what is still held: a worker whose caches turn over would look, and count, 150 MB
    larger than what it holds. Does nothing with another C library.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def for_servers() -> None:
    """For the start of a server: all threads share two of malloc's arenas, and a click's arrays stay in them.

    By default each of many threads gets one, whose freed memory serves no other: a fifth of a busy server's memory. And
    by default the arrays of a few megabytes that each click makes are asked of the system and given back each time:
    a tenth of the time of a first click. Does nothing with another C library.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_ARENA_MAX, 2)
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)


@cache
def _glibc() -> Any:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        library.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    except (OSError, AttributeError):
        return None
    return library
