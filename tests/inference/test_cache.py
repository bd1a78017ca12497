import threading
from dataclasses import dataclass

from icmformer.inference.cache import ByteLRU, CacheStats, NullCache


@dataclass(frozen=True)
class Blob:
    nbytes: int


def test_the_least_recently_used_goes_first():
    cache = ByteLRU(30)
    for name in "abc":
        cache.put(name, Blob(10))
    cache.get("a")
    cache.put("d", Blob(10))
    assert cache.get("b") is None
    assert all(cache.get(name) for name in "acd")


def test_the_capacity_is_a_hard_bound_and_may_be_filled_to_the_byte():
    cache = ByteLRU(30)
    cache.put("a", Blob(30))
    assert cache.get("a")
    cache.put("b", Blob(1))
    assert cache.get("a") is None
    assert cache.stats().nbytes == 1


def test_a_value_over_the_capacity_is_not_kept_and_evicts_nothing_but_its_old_self():
    cache = ByteLRU(30)
    cache.put("a", Blob(10))
    cache.put("b", Blob(10))
    cache.put("b", Blob(31))
    assert cache.get("b") is None
    assert cache.get("a")
    assert cache.stats() == CacheStats(hits=1, misses=1, evictions=0, entries=1, nbytes=10)


def test_putting_again_replaces_and_counts_once():
    cache = ByteLRU(30)
    cache.put("a", Blob(10))
    cache.put("a", Blob(20))
    assert cache.stats().nbytes == 20
    assert cache.get("a") == Blob(20)


def test_many_threads_never_break_the_bound():
    cache = ByteLRU(100)
    seen = []

    def work(seed: int) -> None:
        for i in range(500):
            key = (seed * 31 + i) % 40
            cache.put(key, Blob(1 + key % 17))
            cache.get((key * 7) % 40)
            seen.append(cache.stats().nbytes)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4000
    assert max(seen) <= 100
    held = [cache.get(key) for key in range(40)]
    assert sum(blob.nbytes for blob in held if blob) == cache.stats().nbytes


def test_the_null_cache_keeps_nothing():
    cache = NullCache()
    cache.put("a", Blob(1))
    assert cache.get("a") is None
