"""Label Studio's brush encoding (thi.ng's rle-pack)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ..annotations import BadAnnotationError

_KIND = "a brush mask that is damaged"
_HEADER_BITS = 32 + 5 + 4 * 4
_WORD = 8
_MOST = 1 << 28


def decode_rle(data: bytes | Sequence[int], expected: Collection[int] | None = None) -> NDArray[np.uint8]:
    """Unpacks a brush mask: bytes in, values out.

    The stream: the number of values (32 bits), the word size less one (5), four run-length sizes less one (4 each);
    then runs: a flag (1: one value repeated, 0: that many values), the index of a size (2), the length less one in
    that many bits, the value or values. Zeros fill the last byte, and may follow.

    Args:
        data: The stream.
        expected: The numbers of values it may hold; what it says of itself is compared before memory is taken for it.

    Returns:
        (N,) uint8 values.

    Raises:
        BadAnnotationError: The stream is no such stream, ends early or holds more than it says.
    """
    raw = bytes(data)
    if 8 * len(raw) < _HEADER_BITS:
        raise BadAnnotationError(_KIND, "the run lengths end early")
    head = int.from_bytes(raw[:7])
    total, word = head >> 24, (head >> 19 & 31) + 1
    if word != _WORD:
        raise BadAnnotationError(_KIND, f"values of {word} bits")
    if total > _MOST if expected is None else total not in expected:
        raise BadAnnotationError("a brush mask of another size than its photo", f"{total:,} values")
    return np.frombuffer(_unpacked(raw, total, [(head >> place & 15) + 1 for place in (15, 11, 7, 3)]), np.uint8)


def _unpacked(raw: bytes, total: int, sizes: Sequence[int]) -> bytearray:
    """The values of a stream, with a look at 64 bits for each run."""
    values = bytearray(total)
    masks = [(1 << size) - 1 for size in sizes]
    place, filled, end = _HEADER_BITS, 0, 8 * len(raw)
    padded = raw + bytes(8)
    while filled < total:
        byte, shift = place >> 3, 61 - (place & 7)
        window = int.from_bytes(padded[byte : byte + 8])
        code = window >> shift & 7
        size = sizes[code & 3]
        shift -= size
        length = (window >> shift & masks[code & 3]) + 1
        place += 3 + size + (_WORD if code & 4 else _WORD * length)
        if place > end:
            raise BadAnnotationError(_KIND, "the run lengths end early")
        last = filled + length
        if last > total:
            raise BadAnnotationError(_KIND, "the run lengths hold more than they say")
        if code & 4:
            value = window >> (shift - _WORD) & 255
            if value:
                values[filled:last] = bytes((value,)) * length
        else:
            values[filled:last] = _bits(raw, place - _WORD * length, length)
        filled = last
    if int.from_bytes(raw[place >> 3 : (place >> 3) + 1]) << (place & 7) & 255 or any(raw[(place >> 3) + 1 :]):
        raise BadAnnotationError(_KIND, "more follows after its last run")
    return values


def _bits(raw: bytes, place: int, length: int) -> bytes:
    """Whole bytes that begin at any bit."""
    first, shift = place >> 3, place & 7
    number = int.from_bytes(raw[first : first + length + (shift > 0)])
    return (number >> (8 - shift & 7) & (1 << 8 * length) - 1).to_bytes(length)
