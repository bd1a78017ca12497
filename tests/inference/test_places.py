import threading
import time

import pytest

from icmformer.inference.places import Places


def test_never_more_than_there_are_and_in_order_of_arrival():
    places, order, inside, most = Places(2), [], [], []
    held = [threading.Event() for _ in range(6)]

    def work(number):
        with places.one():
            order.append(number)
            inside.append(number)
            most.append(len(inside))
            held[number].wait(10)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)  # so that they come in this order
    assert order == [0, 1]
    for number, thread in enumerate(threads):
        held[number].set()
        thread.join(10)
    assert order == [0, 1, 2, 3, 4, 5]
    assert max(most) == 2


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
