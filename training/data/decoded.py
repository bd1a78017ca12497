"""Images kept decoded in memory, where all worker processes find them."""

from __future__ import annotations

import mmap
import multiprocessing
import sys
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError

from .records import ImageRecord, ImageSource

_NEVER = 1
"""Marks an image that found no room; offsets are multiples of `_ALIGNMENT`, and 0 is an image not met yet."""
_ALIGNMENT = 64


class Decoded:
    """A source whose images are decoded once, by whichever process first asks, and then shared by all.

    The memory is one anonymous mapping, which processes forked from this one share. What finds no room any more is
    decoded every time. A copy made by pickling (a spawned process) shares nothing and keeps nothing.

    Args:
        images: What to keep.
        limit: Bytes to keep at most; 0 keeps nothing. Memory is taken page by page, as images come.

    Raises:
        ConfigError: The machine has no room for so much.
    """

    def __init__(self, images: ImageSource, limit: int) -> None:
        self._images = images
        self.records: Sequence[ImageRecord] = images.records
        self._limit = limit // _ALIGNMENT * _ALIGNMENT
        if self._limit:
            self._pixels = np.frombuffer(_reserved(self._limit), np.uint8)
            # of each image its offset plus one alignment, height, width and layers (0: a plain map); the last row is
            # the offset of what comes next
            shape = (len(self.records) + 1, 4)
            self._table = np.frombuffer(_reserved(8 * prod(shape)), np.int64).reshape(shape)
            self._lock: Any = multiprocessing.get_context("fork" if sys.platform != "win32" else None).Lock()

    def __getstate__(self) -> dict[str, object]:
        return {"_images": self._images, "records": self.records, "_limit": 0}

    @property
    def kept(self) -> int:
        """Bytes in use, those of all processes."""
        return int(self._table[-1, 0]) if self._limit else 0

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As the source gives it; what was kept cannot be written to."""
        if not self._limit:
            return self._images.load(index)
        with self._lock:  # whoever sees an entry also sees what it points to
            offset, height, width, layers = map(int, self._table[index])
        if offset >= _ALIGNMENT:
            return self._views(offset - _ALIGNMENT, height, width, layers)
        image, labels = self._images.load(index)
        if offset != _NEVER:
            self._keep(index, image, labels)
        return image, labels

    def _views(self, offset: int, height: int, width: int, layers: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        shape = (height, width, layers) if layers else (height, width)
        end = offset + 3 * height * width
        image = self._pixels[offset:end].reshape(height, width, 3)
        labels = self._pixels[end : end + prod(shape)].reshape(shape)
        for array in (image, labels):
            array.flags.writeable = False
        return image, labels

    def _keep(self, index: int, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        height, width = labels.shape[:2]
        size = image.size + labels.size
        with self._lock:
            offset = self.kept
            if self._table[index, 0]:  # another process was quicker
                return
            if image.shape != (height, width, 3) or offset + size > self._limit:
                self._table[index, 0] = _NEVER
                return
            self._pixels[offset : offset + image.size] = image.ravel()
            self._pixels[offset + image.size : offset + size] = labels.ravel()
            self._table[index] = (offset + _ALIGNMENT, height, width, labels.shape[2] if labels.ndim == 3 else 0)
            self._table[-1, 0] = -(-(offset + size) // _ALIGNMENT) * _ALIGNMENT


def _reserved(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigError(
            f"cannot set aside {size / 1e9:,.1f} GB for decoded images ({error}): lower --image-memory"
        ) from error
