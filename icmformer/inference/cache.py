"""Caches bounded in bytes. They change latency only: a hit gives what a miss would have computed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value that knows its size."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


@dataclass(frozen=True)
class CacheStats:
    """Counts since the start, and what is held now."""

    hits: int
    misses: int
    evictions: int
    entries: int
    nbytes: int


class Cache(Protocol[V]):
    """What the engine asks of a cache. Implementations must be safe to call from several threads."""

    def get(self, key: Hashable) -> V | None: ...

    def peek(self, key: Hashable) -> V | None: ...

    def put(self, key: Hashable, value: V) -> None: ...

    def stats(self) -> CacheStats: ...


class NullCache(Generic[V]):
    """Keeps nothing."""

    def get(self, key: Hashable) -> V | None:
        return None

    def peek(self, key: Hashable) -> V | None:
        return None

    def put(self, key: Hashable, value: V) -> None:
        return None

    def stats(self) -> CacheStats:
        return CacheStats(0, 0, 0, 0, 0)


class ByteLRU(Generic[V]):
    """Keeps the most recently used values, at most `capacity` bytes of them.

    A value larger than the capacity is not kept. Putting a key again replaces its value.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        self._items: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._nbytes = self._hits = self._misses = self._evictions = 0

    def get(self, key: Hashable) -> V | None:
        """The value, now the most recently used, or None."""
        with self._lock:
            item = self._items.get(key)
            if item is None:
                self._misses += 1
                return None
            self._items.move_to_end(key)
            self._hits += 1
            return item[0]

    def peek(self, key: Hashable) -> V | None:
        """The value or None, without counting and without making it the most recently used."""
        with self._lock:
            item = self._items.get(key)
            return None if item is None else item[0]

    def put(self, key: Hashable, value: V) -> None:
        """Keeps a value, at the cost of the least recently used ones."""
        size = value.nbytes
        with self._lock:
            old = self._items.pop(key, None)
            if old is not None:
                self._nbytes -= old[1]
            if size > self.capacity:
                return
            while self._nbytes + size > self.capacity:
                _, (_, freed) = self._items.popitem(last=False)
                self._nbytes -= freed
                self._evictions += 1
            self._items[key] = (value, size)
            self._nbytes += size

    def stats(self) -> CacheStats:
        """Counts and what is held."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._evictions, len(self._items), self._nbytes)
