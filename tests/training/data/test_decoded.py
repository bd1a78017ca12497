import multiprocessing
import pickle

import numpy as np
import pytest

from icmformer.errors import ConfigError
from training.data.decoded import Decoded
from training.data.records import ImageRecord
from training.data.sources import open_images


class Counting:
    """Pictures of noise, some with layers; counts how often each is decoded, in all processes."""

    def __init__(self):
        self.records = [ImageRecord(str(n), "noise", (1,)) for n in range(6)]
        self.decoded = multiprocessing.get_context("fork").Array("i", 6)

    def load(self, index):
        self.decoded[index] += 1
        rng = np.random.default_rng(index)
        height, width = 30 + index, 47 - index
        labels = rng.integers(0, 4, (height, width, 2) if index % 2 else (height, width), dtype=np.uint8)
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), labels


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_image_is_decoded_once_for_all_processes():
    source = Counting()
    images = Decoded(source, 10**6)
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=lambda: [images.load(n) for n in range(6)]) for _ in range(3)]
    for child in children:
        child.start()
        child.join()
        assert child.exitcode == 0
    for n in range(6):
        same(images.load(n), Counting().load(n))
    assert list(source.decoded) == [1] * 6
    assert images.kept >= sum(image.nbytes + labels.nbytes for image, labels in map(images.load, range(6)))
    with pytest.raises(ValueError, match="read-only"):
        images.load(0)[0][:] = 0


def test_processes_that_decode_at_once_see_whole_images():
    """Each in another order, so that they meet: who finds an image finds all of it."""
    images = Decoded(Counting(), 10**6)
    fork = multiprocessing.get_context("fork")

    def look(start):
        for _ in range(50):
            for n in range(6):
                same(images.load((n + start) % 6), Counting().load((n + start) % 6))

    children = [fork.Process(target=look, args=(start,)) for start in (0, 0, 1, 3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


@pytest.mark.parametrize("limit", [0, 100, 12_000])
def test_no_more_is_kept_than_the_limit(limit):
    source = Counting()
    images = Decoded(source, limit)
    for _ in range(3):
        for n in range(6):
            same(images.load(n), Counting().load(n))
    assert images.kept <= limit
    assert max(source.decoded) == 3
    assert (min(source.decoded) == 1) == (limit == 12_000)


def test_a_pickled_copy_gives_the_same_images(shard_root):
    images = Decoded(open_images(shard_root, ["tiny.zip"]), 10**6)
    first = images.load(2)
    copy = pickle.loads(pickle.dumps(images))
    assert copy.records == images.records
    same(copy.load(2), first)
    assert copy.kept == 0


def test_more_than_the_machine_has_is_told_with_the_option():
    with pytest.raises(ConfigError, match="lower --image-memory"):
        Decoded(Counting(), 10**17)
