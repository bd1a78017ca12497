import threading
import time
from concurrent.futures import Future

import pytest

from icmformer.serving.errors import BusyError
from icmformer.serving.queue import Gate, StaleError


class Visitor(threading.Thread):
    """Goes through a gate, stays until told to leave, and remembers how it went."""

    def __init__(self, gate, group=None, order=None):
        super().__init__(daemon=True)
        self.gate, self.group, self.order = gate, group, order if order is not None else []
        self.inside, self.leave, self.error = threading.Event(), threading.Event(), None
        self.start()

    def run(self):
        try:
            with self.gate.arrival(self.group or self) as turn, self.gate.enter(turn):
                self.order.append(self)
                self.inside.set()
                self.leave.wait(10)
        except Exception as error:
            self.error = error


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_at_a_time_in_order_of_arrival():
    gate, order = Gate(1, 10, 5), []
    first = Visitor(gate, order=order)
    first.inside.wait(5)
    others = []
    for n in range(3):
        others.append(Visitor(gate, order=order))
        wait_for(lambda n=n: gate.waiting == n + 1)
    assert not any(v.inside.is_set() for v in others)
    for visitor, follower in zip([first, *others], others, strict=False):
        visitor.leave.set()
        assert follower.inside.wait(5)
    others[-1].leave.set()
    assert order == [first, *others]


def test_a_newer_request_of_the_group_outdoes_those_that_wait_but_not_the_one_inside():
    gate = Gate(1, 10, 5)
    inside = Visitor(gate, "object")
    inside.inside.wait(5)
    older = Visitor(gate, "object")
    wait_for(lambda: gate.waiting == 1)
    stranger = Visitor(gate, "another object")
    wait_for(lambda: gate.waiting == 2)
    newer = Visitor(gate, "object")
    wait_for(lambda: older.error is not None)
    assert isinstance(older.error, StaleError)
    inside.leave.set()
    assert stranger.inside.wait(5)
    stranger.leave.set()
    assert newer.inside.wait(5)
    newer.leave.set()
    inside.join(5)
    assert inside.error is None


def test_an_older_request_whose_image_came_later_does_not_outdo_the_newer_one():
    gate = Gate(1, 10, 5)
    with gate.arrival("object") as older, gate.arrival("object") as newer:
        with gate.enter(newer):
            pass
        with pytest.raises(StaleError), gate.enter(older):
            pass
    with gate.arrival("object") as later, gate.enter(later):
        pass
    assert not gate._turns


def test_a_full_queue_and_a_long_wait_are_refused():
    gate = Gate(1, 1, 2)
    inside = Visitor(gate)
    inside.inside.wait(5)
    waiting = Visitor(gate)
    wait_for(lambda: gate.waiting == 1)
    with pytest.raises(BusyError, match="waiting already"), gate.arrival("another object"):
        pass
    wait_for(lambda: waiting.error is not None)
    assert isinstance(waiting.error, BusyError)
    assert "no place came free in 2 s" in str(waiting.error)
    inside.leave.set()
    inside.join(5)
    with gate.enter():
        pass


def test_requests_count_from_their_arrival_on_while_their_images_are_fetched_too():
    gate = Gate(1, 2, 5)
    with gate.arrival("a"), gate.arrival("b"), gate.arrival("c"):
        assert gate.full
        assert (gate.queued, gate.waiting) == (3, 0)  # nobody waits for the network
        with pytest.raises(BusyError, match="2 requests are waiting already"), gate.arrival("d"):
            pass
        # one that was outdone and is still fetching holds its thread, and counts
        with pytest.raises(BusyError), gate.arrival("a"):
            pass
    assert not gate.full
    assert gate.queued == 0


def test_who_waits_for_anothers_fetch_leaves_once_outdone_and_makes_room():
    gate, flight, seen = Gate(1, 2, 5), Future(), []

    def wait():
        try:
            with gate.arrival("object") as turn:
                turn.result(flight, 10)
        except StaleError as error:
            seen.append(error)

    with gate.arrival("the one who fetches"):
        for count in range(30):  # quick clicks on a photo that does not come
            thread = threading.Thread(target=wait, daemon=True)
            thread.start()
            wait_for(lambda count=count: len(seen) == count)
            wait_for(lambda: gate.queued == 2)
        assert not gate.full
    flight.set_result(None)
    thread.join(5)
    assert len(seen) == 29
    with pytest.raises(TimeoutError), gate.arrival("object") as turn:
        turn.result(Future(), 0.01)


def test_an_error_inside_gives_the_place_back():
    gate = Gate(1, 0, 1)
    with pytest.raises(KeyError), gate.enter():
        raise KeyError
    with gate.enter():
        pass
