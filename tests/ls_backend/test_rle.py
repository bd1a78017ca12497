import json

import numpy as np
import pytest

from icmformer.runs import MaskRuns
from ls_backend import rle
from tests.conftest import GOLDEN
from tests.golden.label_studio.masks import COUNT, digest, mask

EXPECTED = json.loads((GOLDEN / "label_studio" / "rle.json").read_text())


def test_every_mask_is_encoded_as_label_studios_sdk_does():
    assert len(EXPECTED) == COUNT >= 300
    wrong = [n for n in range(COUNT) if digest(rle.encode(MaskRuns.of(mask(n)))) != EXPECTED[n]]
    assert not wrong


def decode(encoded):
    """rle-pack, read bit by bit by its own definition (thi.ng/rle-pack)."""
    bits = "".join(f"{byte:08b}" for byte in encoded)
    place = 0

    def take(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        run = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(word)] * length if run else [take(word) for _ in range(length)]
    return np.array(values, np.uint8)


@pytest.mark.parametrize("number", range(0, 33))
def test_a_reader_of_the_format_gets_the_mask_back(number):
    truth = mask(number)
    pixels = decode(rle.encode(MaskRuns.of(truth))).reshape(*truth.shape, 4)
    np.testing.assert_array_equal(pixels, np.repeat(truth[..., None], 4, axis=2) * 255)
