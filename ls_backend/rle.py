"""Label Studio's brush encoding: thi.ng's rle-pack over RGBA pixels, as a list of bytes.

A stream of bits: the number of values (32), the word size less one (5), the four run-length sizes less one (4 each);
then for each run of equal values a flag, the index of a size (2), the length less one in that many bits, the value (8).
Every pixel is four equal bytes, 255 in the mask and 0 outside it. The bytes are those of label_studio_sdk's encoder.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from icmformer.runs import MaskRuns

_SIZES = (3, 4, 8, 16)
_WORD = 8
_CHANNELS = 4
_LONGEST = 1 << _SIZES[-1]
_HEADER_BITS = 32 + 5 + 4 * len(_SIZES)


def encode(mask: MaskRuns) -> list[int]:
    """Encodes a mask; rows from the top, pixels from the left."""
    pixels = mask.size[0] * mask.size[1]
    changes = np.stack(mask.joined, axis=1).ravel()  # where the image's line goes into the mask and out of it
    begins_inside = len(changes) > 0 and changes[0] == 0
    starts = changes if begins_inside else np.concatenate(([0], changes))
    starts = starts[starts < pixels]
    lengths = np.diff(starts, append=pixels) * _CHANNELS
    inside = (np.arange(len(starts)) % 2 == 0) == begins_inside
    size = np.minimum(np.searchsorted([1 << bits for bits in _SIZES], lengths), len(_SIZES) - 1)
    pieces = -(-lengths // _LONGEST)  # runs longer than 16 bits can say are cut, and keep that size to the last piece
    lengths, size, inside = _cut(lengths, pieces), np.repeat(size, pieces), np.repeat(inside, pieces)
    stream = np.concatenate([_header(pixels * _CHANNELS), _run_bits(lengths, size, inside)])
    padding = 8 - len(stream) % 8  # a whole byte where none is needed, as the SDK has it
    packed: list[int] = np.packbits(np.append(stream, np.zeros(padding, np.uint8))).tolist()
    return packed


def _cut(lengths: NDArray[np.int64], pieces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each length as full pieces and a last one with the rest."""
    cut = np.full(int(pieces.sum()), _LONGEST, np.int64)
    cut[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _LONGEST
    return cut


def _header(count: int) -> NDArray[np.uint8]:
    value = (count << 5 | _WORD - 1) << 4 * len(_SIZES)
    for place, size in enumerate(reversed(_SIZES)):
        value |= (size - 1) << 4 * place
    return np.array([value >> bit & 1 for bit in range(_HEADER_BITS - 1, -1, -1)], np.uint8)


def _run_bits(lengths: NDArray[np.int64], index: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """One bit a number: every run's code, one after the other; `index` says which size each length is given in."""
    size = np.array(_SIZES)[index]
    bits = 1 + 2 + size + _WORD
    code = (1 << 2 | index) << size | (lengths - 1)
    code = code << _WORD | np.where(inside, 255, 0)
    aligned = (code << (32 - bits)).astype(">u4")  # the code's first bit comes first
    table = np.unpackbits(aligned.view(np.uint8)).reshape(-1, 32)
    return table[np.arange(32) < bits[:, None]]
