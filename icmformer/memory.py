"""Memory of a long-lived process."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def release() -> None:
    """Gives freed memory back to the operating system; a few milliseconds.

    glibc keeps what was freed between what is still held: a worker whose caches turn over would look, and count, 150 MB
    larger than what it holds. Does nothing with another C library.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return library
