"""The request queue: so many requests at the engine and no more, in order of arrival, none that is superseded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from icmformer.serving.errors import BusyError, SupersededError

T = TypeVar("T")


class Turn:
    """One request's place in the order of arrival.

    Attributes:
        superseded: Whether a newer one of its object came.
        idle: Whether it only waits, and leaves at once when it is superseded.
        inside: Whether it is at the network.
    """

    def __init__(self, changed: threading.Condition | None = None) -> None:
        self.superseded = self.idle = self.inside = False
        self._changed = changed or threading.Condition()

    def result(self, future: Future[T], seconds: float) -> T:
        """What somebody else is working out.

        Raises:
            SupersededError: A newer request of the object came first.
            TimeoutError: It took too long.
        """
        future.add_done_callback(lambda _: self._wake())
        with self._changed:
            self.idle = True
            try:
                there = self._changed.wait_for(lambda: future.done() or self.superseded, seconds)
            finally:
                self.idle = False
        if self.superseded:
            raise SupersededError
        if not there:
            raise TimeoutError
        return future.result()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class RequestQueue:
    """Lets requests through to the engine in the order in which they came up to it.

    A request counts from its arrival on, while its image is fetched too: so each holds a thread of the server, and
    beyond a number of them the next is refused at once.

    Args:
        places: Requests inside at once.
        queue: Requests that may wait, for their image or for a place.
        seconds: How long they wait for a place.

    Attributes:
        tell: Called with the number of those who wait for a place whenever it may have changed.
    """

    def __init__(self, places: int, queue: int, seconds: float) -> None:
        self._free, self._most, self._queue, self._seconds = places, places + queue, queue, seconds
        self._turns: dict[Hashable, list[Turn]] = {}
        self._waiting: deque[Turn] = deque()
        self._changed = threading.Condition()
        self.tell: Callable[[int], None] = lambda waiting: None

    @property
    def waiting(self) -> int:
        """How many wait for a place, with their images."""
        with self._changed:
            return self._count_waiting()

    @property
    def queued(self) -> int:
        """How many are here and not at the network yet: those whose image is being fetched, too."""
        with self._changed:
            return sum(not turn.inside for turn in self._present())

    @property
    def full(self) -> bool:
        """Whether a request that came now would be refused."""
        with self._changed:
            return self._is_full()

    def _present(self) -> list[Turn]:
        return [turn for turns in self._turns.values() for turn in turns if not (turn.superseded and turn.idle)]

    def _count_waiting(self) -> int:
        return sum(not turn.superseded for turn in self._waiting)

    def _is_full(self) -> bool:
        return len(self._present()) >= self._most

    def _note(self) -> None:
        """Wakes the requests that wait, and reports how many there are."""
        self._changed.notify_all()
        self.tell(self._count_waiting())

    @contextmanager
    def arrival(self, group: Hashable) -> Iterator[Turn]:
        """A request's time from its arrival on, fetching its image included.

        Args:
            group: Names the object that is being clicked on, None where that is not known; requests of the same group
                that came before and have not gone in yet are given up.

        Raises:
            BusyError: As many as may wait are here already.
        """
        turn = Turn(self._changed)
        group = object() if group is None else group
        with self._changed:
            for older in self._turns.get(group, ()):
                older.superseded = True
            self._note()
            if self._is_full():
                raise BusyError(f"{self._queue} requests are waiting already; add replicas, or raise ICMFORMER_QUEUE")
            self._turns.setdefault(group, []).append(turn)
            self._note()
        try:
            yield turn
        finally:
            with self._changed:
                self._turns[group].remove(turn)
                if not self._turns[group]:
                    del self._turns[group]
                self._note()

    @contextmanager
    def enter(self, turn: Turn | None = None) -> Iterator[None]:
        """Waits for a place.

        Args:
            turn: From `arrival`; None for what belongs to no object, which counts for nobody's queue.

        Raises:
            BusyError: No place came free in time.
            SupersededError: A newer request of the object came.
        """
        turn = turn or Turn(self._changed)
        deadline = time.monotonic() + self._seconds
        with self._changed:
            self._waiting.append(turn)
            turn.idle = True
            try:
                while True:
                    if turn.superseded:
                        raise SupersededError
                    if self._free and next(t for t in self._waiting if not t.superseded) is turn:
                        break
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise BusyError(f"no slot became free in {self._seconds:g} s; add replicas or a GPU")
                    self._changed.wait(left)
                self._free -= 1
                turn.inside = True
            finally:
                turn.idle = False
                self._waiting.remove(turn)
                self._note()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                turn.inside = False
                self._note()
