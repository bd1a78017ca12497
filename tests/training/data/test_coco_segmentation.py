"""COCO's outlines and run lengths as masks, against pycocotools and scikit-image."""

import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as rle
from skimage import draw as sk

from tests.training.coco_masks import HEIGHT, WIDTH, plain, shortened, square
from training.data.coco_segmentation import decode, encode
from training.data.outlines import whole_number
from training.data.packed_mask import PackedMask
from training.finetuning.readers.annotations import BadAnnotationError


def test_run_lengths_as_bytes():
    coded = rle.encode(np.asfortranarray(square().astype(np.uint8)))
    np.testing.assert_array_equal(decode(coded, HEIGHT, WIDTH), square())


def test_polygons_are_rasterised_as_pycocotools_does_and_nearly_as_scikit_image():
    rng = np.random.default_rng(1)
    for _ in range(40):
        rings = [
            (rng.random(2 * rng.integers(3, 9)) * 1.4 - 0.2).reshape(-1, 2) * [WIDTH, HEIGHT]
            for _ in range(rng.integers(1, 80))
        ]
        rings = [ring.ravel().tolist() for ring in rings]
        mask = decode(rings, HEIGHT, WIDTH)
        theirs = rle.decode(rle.merge(rle.frPyObjects(rings, HEIGHT, WIDTH)))
        np.testing.assert_array_equal(mask, theirs.astype(bool))
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    blob = np.stack([30 + 20 * np.cos(angles), 20 + 14 * np.sin(angles)], 1)
    ours = decode([blob.ravel().tolist()], HEIGHT, WIDTH)
    theirs = sk.polygon2mask((HEIGHT, WIDTH), blob[:, ::-1] - 0.5)
    assert (ours != theirs).sum() <= 0.1 * 2 * np.pi * 20  # a tenth of the pixels on the outline


def test_outlines_longer_than_the_photo_has_room_for_take_memory_by_pixels():
    rng = np.random.default_rng(0)
    zigzag = np.stack([rng.random(20_000) * 400, np.linspace(0, 300, 20_000)], 1)
    (far,) = np.array([[-9e6, 10, 9e6, 10, 9e6, 20, -9e6, 20]])
    tracemalloc.start()
    assert encode([zigzag.ravel().tolist()], 300, 400).area > 0
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    np.testing.assert_array_equal(np.flatnonzero(decode([far.tolist()], HEIGHT, WIDTH).all(1)), np.arange(10, 20))


@pytest.mark.parametrize("seed", range(6))
def test_packed_masks_say_of_themselves_what_the_arrays_say(seed):
    rng = np.random.default_rng(seed)
    one, other = (rng.random((HEIGHT, WIDTH)) < share for share in rng.random(2) ** 3)
    both = [PackedMask.of(mask) for mask in (one, other)]
    runs = PackedMask.of_runs(np.array(plain(one)), HEIGHT, WIDTH)
    assert runs == both[0]
    np.testing.assert_array_equal(both[0].mask(), one)
    assert both[0].area == one.sum()
    assert both[0].shared(both[1]) == (one & other).sum()
    np.testing.assert_array_equal(PackedMask.union(both).mask(), one | other)
    rows, columns = np.nonzero(one)
    if rows.size:
        assert both[0].box == (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    nothing = PackedMask.of(np.zeros((HEIGHT, WIDTH), bool))
    assert (nothing.area, nothing.box, nothing.mask().any()) == (0, (0, 0, 0, 0), False)


def test_text_of_run_lengths_is_unpacked_as_pycocotools_does():
    rng = np.random.default_rng(5)
    for height, width in ((1, 1), (1, 700), (2000, 3), (300, 200)):
        for share in (0, 0.001, 0.3, 1):
            mask = rng.random((height, width)) < share
            coded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            np.testing.assert_array_equal(decode(coded, height, width), mask)


def test_a_segmentation_that_cannot_be_drawn_says_its_kind():
    with pytest.raises(BadAnnotationError, match=r"run lengths shorter than the image: 2,300 of 2,400 pixels") as told:
        decode(shortened(-100), HEIGHT, WIDTH)
    assert told.value.kind == "run lengths shorter than the image"


def test_ids_that_are_whole_numbers():
    assert [whole_number(v) for v in (7, 7.0, "7", 7.5, "007", "7.0", True, None, float("inf"), "\u0667")] == [
        *[7] * 3,
        *[None] * 7,
    ]
