import threading
import time
from concurrent.futures import Future

import pytest

from icmformer.serving.errors import BusyError, SupersededError
from icmformer.serving.queue import RequestQueue


class Visitor(threading.Thread):
    """Goes through a queue, stays until told to leave, and remembers how it went."""

    def __init__(self, requests, group=None, order=None):
        super().__init__(daemon=True)
        self.requests, self.group, self.order = requests, group, order if order is not None else []
        self.inside, self.leave, self.error = threading.Event(), threading.Event(), None
        self.start()

    def run(self):
        try:
            with self.requests.arrival(self.group or self) as turn, self.requests.enter(turn):
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
    requests, order = RequestQueue(1, 10, 5), []
    first = Visitor(requests, order=order)
    first.inside.wait(5)
    others = []
    for n in range(3):
        others.append(Visitor(requests, order=order))
        wait_for(lambda n=n: requests.waiting == n + 1)
    assert not any(v.inside.is_set() for v in others)
    for visitor, follower in zip([first, *others], others, strict=False):
        visitor.leave.set()
        assert follower.inside.wait(5)
    others[-1].leave.set()
    assert order == [first, *others]


def test_a_newer_request_of_the_group_supersedes_those_that_wait_but_not_the_one_inside():
    requests = RequestQueue(1, 10, 5)
    inside = Visitor(requests, "object")
    inside.inside.wait(5)
    older = Visitor(requests, "object")
    wait_for(lambda: requests.waiting == 1)
    stranger = Visitor(requests, "another object")
    wait_for(lambda: requests.waiting == 2)
    newer = Visitor(requests, "object")
    wait_for(lambda: older.error is not None)
    assert isinstance(older.error, SupersededError)
    inside.leave.set()
    assert stranger.inside.wait(5)
    stranger.leave.set()
    assert newer.inside.wait(5)
    newer.leave.set()
    inside.join(5)
    assert inside.error is None


def test_an_older_request_whose_image_came_later_does_not_supersede_the_newer_one():
    requests = RequestQueue(1, 10, 5)
    with requests.arrival("object") as older, requests.arrival("object") as newer:
        with requests.enter(newer):
            pass
        with pytest.raises(SupersededError), requests.enter(older):
            pass
    with requests.arrival("object") as later, requests.enter(later):
        pass
    assert not requests._turns


def test_a_full_queue_and_a_long_wait_are_refused():
    requests = RequestQueue(1, 1, 2)
    inside = Visitor(requests)
    inside.inside.wait(5)
    waiting = Visitor(requests)
    wait_for(lambda: requests.waiting == 1)
    with pytest.raises(BusyError, match="waiting already"), requests.arrival("another object"):
        pass
    wait_for(lambda: waiting.error is not None)
    assert isinstance(waiting.error, BusyError)
    assert "no slot became free in 2 s" in str(waiting.error)
    inside.leave.set()
    inside.join(5)
    with requests.enter():
        pass


def test_requests_count_from_their_arrival_on_while_their_images_are_fetched_too():
    requests = RequestQueue(1, 2, 5)
    with requests.arrival("a"), requests.arrival("b"), requests.arrival("c"):
        assert requests.full
        assert (requests.queued, requests.waiting) == (3, 0)  # nobody waits for the network
        with pytest.raises(BusyError, match="2 requests are waiting already"), requests.arrival("d"):
            pass
        # one that was superseded and is still fetching holds its thread, and counts
        with pytest.raises(BusyError), requests.arrival("a"):
            pass
    assert not requests.full
    assert requests.queued == 0


def test_who_waits_for_anothers_fetch_leaves_once_superseded_and_makes_room():
    requests, flight, seen = RequestQueue(1, 2, 5), Future(), []

    def wait():
        try:
            with requests.arrival("object") as turn:
                turn.result(flight, 10)
        except SupersededError as error:
            seen.append(error)

    with requests.arrival("the one who fetches"):
        for count in range(30):  # quick clicks on a photo that does not come
            thread = threading.Thread(target=wait, daemon=True)
            thread.start()
            wait_for(lambda count=count: len(seen) == count)
            wait_for(lambda: requests.queued == 2)
        assert not requests.full
    flight.set_result(None)
    thread.join(5)
    assert len(seen) == 29
    with pytest.raises(TimeoutError), requests.arrival("object") as turn:
        turn.result(Future(), 0.01)


def test_an_error_inside_gives_the_place_back():
    requests = RequestQueue(1, 0, 1)
    with pytest.raises(KeyError), requests.enter():
        raise KeyError
    with requests.enter():
        pass
