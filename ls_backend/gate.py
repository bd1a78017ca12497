"""The way to the network: a few at a time, a bounded queue in order of arrival, no work for clicks already outdone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from ls_backend.errors import BusyError


class StaleError(Exception):
    """A newer request of the same object came while this one waited; its answer is the one that will be looked at."""


class _Ticket:
    def __init__(self, group: Hashable | None) -> None:
        self.group = group
        self.stale = False


class Gate:
    """Lets requests through in order of arrival.

    Args:
        places: Requests inside at once.
        queue: Requests that may wait.
        seconds: How long they wait.
    """

    def __init__(self, places: int, queue: int, seconds: float) -> None:
        self._free, self._most, self._seconds = places, queue, seconds
        self._waiting: deque[_Ticket] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextmanager
    def enter(self, group: Hashable | None = None) -> Iterator[None]:
        """Waits for a place.

        Args:
            group: Names the object that is being clicked on; requests of the same group that still wait are given up.

        Raises:
            BusyError: The queue is full, or no place came free in time.
            StaleError: Another request of the group came while this one waited.
        """
        ticket = _Ticket(group)
        deadline = time.monotonic() + self._seconds
        with self._changed:
            for other in self._waiting:
                if group is not None and other.group == group:
                    other.stale = True
            if len([t for t in self._waiting if not t.stale]) >= self._most and not self._free:
                raise BusyError(f"{self._most} requests are waiting already; add replicas, or raise ICMFORMER_QUEUE")
            self._waiting.append(ticket)
            self._changed.notify_all()
            try:
                while True:
                    if ticket.stale:
                        raise StaleError
                    if self._free and next(t for t in self._waiting if not t.stale) is ticket:
                        break
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise BusyError(f"no place came free in {self._seconds:g} s; add replicas or a GPU")
                    self._changed.wait(left)
                self._free -= 1
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
