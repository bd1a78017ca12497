import threading
import time

import pytest

from icmformer.inference.places import Places


def test_places_go_to_those_who_came_first():
    places, order = Places(1), []

    def work(number):
        with places.one():
            order.append(number)

    with places.one():
        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)  # so that they come in this order
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4, 5]


def test_as_many_are_inside_as_there_are_places():
    places, together, lock = Places(2), threading.Barrier(2), threading.Lock()
    inside, most = [0], [0]

    def work():
        with places.one():
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            together.wait(10)  # nobody goes on alone
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [2]
    assert not together.broken


def test_whoever_fails_or_is_interrupted_leaves_the_place_to_the_next(monkeypatch):
    places = Places(1)
    with pytest.raises(ZeroDivisionError), places.one():
        raise ZeroDivisionError

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            raise KeyboardInterrupt

    for taken in (False, True):  # while it waits, and just as its turn has come
        with monkeypatch.context() as patched:
            patched.setattr("icmformer.inference.places.threading.Event", Interrupted)
            if taken:
                with pytest.raises(KeyboardInterrupt), places.one():
                    raise AssertionError
        if not taken:
            with places.one(), monkeypatch.context() as patched:
                patched.setattr("icmformer.inference.places.threading.Event", Interrupted)
                with pytest.raises(KeyboardInterrupt), places.one():
                    raise AssertionError
        done = []
        thread = threading.Thread(target=lambda done=done: [done.append(1) for _ in [0] if _enter(places)])
        thread.start()
        thread.join(5)
        assert done


def _enter(places):
    with places.one():
        return True
