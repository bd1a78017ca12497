"""The way to the network: a few at a time, a bounded queue in order of arrival, no work for clicks already outdone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from ls_backend.errors import BusyError


class StaleError(Exception):
    """A newer request of the same object came meanwhile; its answer is the one that will be looked at."""


class Turn:
    """One request's place in the order of arrival; `outdone` once a newer one of its object came."""

    def __init__(self) -> None:
        self.outdone = False


class Gate:
    """Lets requests through to the network in the order in which they came up to it.

    Args:
        places: Requests inside at once.
        queue: Requests that may wait.
        seconds: How long they wait.

    Attributes:
        tell: Called with the number of those who wait whenever it changes.
    """

    def __init__(self, places: int, queue: int, seconds: float) -> None:
        self._free, self._most, self._seconds = places, queue, seconds
        self._turns: dict[Hashable, list[Turn]] = {}
        self._waiting: deque[Turn] = deque()
        self._changed = threading.Condition()
        self.tell: Callable[[int], None] = lambda waiting: None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether a request that came now would be refused."""
        with self._changed:
            return self._is_full()

    def _is_full(self) -> bool:
        return not self._free and len([t for t in self._waiting if not t.outdone]) >= self._most

    @contextmanager
    def arrival(self, group: Hashable) -> Iterator[Turn]:
        """A request's time from its arrival on, fetching its image included.

        Args:
            group: Names the object that is being clicked on; requests of the same group that came before and have not
                gone in yet are given up.
        """
        turn = Turn()
        with self._changed:
            turns = self._turns.setdefault(group, [])
            for older in turns:
                older.outdone = True
            turns.append(turn)
            self._changed.notify_all()
        try:
            yield turn
        finally:
            with self._changed:
                turns.remove(turn)
                if not turns:
                    del self._turns[group]

    @contextmanager
    def enter(self, turn: Turn | None = None) -> Iterator[None]:
        """Waits for a place.

        Args:
            turn: From `arrival`; None for what belongs to no object.

        Raises:
            BusyError: The queue is full, or no place came free in time.
            StaleError: A newer request of the object came.
        """
        turn = turn or Turn()
        deadline = time.monotonic() + self._seconds
        with self._changed:
            if turn.outdone:
                raise StaleError
            if self._is_full():
                raise BusyError(f"{self._most} requests are waiting already; add replicas, or raise ICMFORMER_QUEUE")
            self._waiting.append(turn)
            self.tell(len(self._waiting))
            self._changed.notify_all()
            try:
                while True:
                    if turn.outdone:
                        raise StaleError
                    if self._free and next(t for t in self._waiting if not t.outdone) is turn:
                        break
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise BusyError(f"no place came free in {self._seconds:g} s; add replicas or a GPU")
                    self._changed.wait(left)
                self._free -= 1
            finally:
                self._waiting.remove(turn)
                self.tell(len(self._waiting))
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
