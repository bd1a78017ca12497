"""Samples by the published recipe: where crops lie, which objects they ask for, how their colours change."""

import math
import pickle

import cv2
import numpy as np
import pytest

from icmformer.errors import ConfigError
from tests.training.data.coco_lvis_sets import IMAGES, write_community
from training.data.build_coco_lvis import main as build
from training.data.records import ImageRecord
from training.data.sbd_voc import without_slivers
from training.data.sources import open_images
from training.loop.augmentation import AugmentConfig
from training.loop.config import parse_config
from training.loop.published_recipe import choose, draw_crop, published_colour, published_sample
from training.loop.samples import SampleSet

PLAIN = ImageRecord("a", "set", (1,))


def rng(seed):
    return np.random.default_rng(seed)


def config(size, data=None, points=None, **augment):
    raw = {"recipe": "published", "network": "icmformer_swin_tiny224", "size": size, "data": data or {}}
    return parse_config({**raw, "augment": {"resize": [1.0, 1.0], **augment}, "points": points or {}})


def positions(rows, columns):
    """An image whose pixels say where they are: row + 1, column + 1, and no colour of the padding."""
    row, column = np.mgrid[1 : rows + 1, 1 : columns + 1]
    return np.stack([row, column, np.full_like(row, 255)], axis=2).astype(np.uint8)


def crops(rows, columns, size, count, **augment):
    image, ranges = positions(rows, columns), AugmentConfig(**{"resize": (1.0, 1.0), **augment})
    for seed in range(count):
        crop = draw_crop(rows, columns, size, ranges, rng(seed))
        yield crop(image, cv2.INTER_LINEAR).astype(int), crop(image, cv2.INTER_NEAREST).astype(int)


def test_crops_lie_anywhere_in_the_image_and_half_are_mirrored():
    tops, lefts, mirrored = [], [], []
    for seen, labels in crops(150, 200, 96, 600):
        np.testing.assert_array_equal(seen, labels)
        assert (np.diff(seen[..., 0], axis=0) == 1).all()
        (step,) = set(np.diff(seen[..., 1], axis=1).ravel())
        mirrored.append(step == -1)
        tops.append(seen[0, 0, 0] - 1)
        lefts.append(seen[0, :, 1].min() - 1)
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.06)
    for starts, free in ((tops, 150 - 96), (lefts, 200 - 96)):
        assert min(starts) <= 1
        assert max(starts) >= free - 2
        assert np.mean(starts) == pytest.approx((free - 1) / 2, abs=0.05 * free)
        assert np.std(starts) == pytest.approx(free / math.sqrt(12), rel=0.08)


def test_small_images_lie_in_the_middle_of_black_background():
    for seen, _ in crops(60, 131, 101, 20):
        inside = seen[..., 2] == 255
        np.testing.assert_array_equal(np.flatnonzero(inside.any(1)), np.arange(20, 80))  # 41 rows, 20 of them above
        assert inside[20:80].all()
        assert not seen[~inside].any()
    labels = np.ones((60, 131), np.uint8)
    _, target, _ = published_sample(positions(60, 131), labels, PLAIN, config(101, min_area=1), rng(0))
    assert (target[:20] == 0).all()
    assert (target[20:80] == 1).all()


def test_images_are_resized_by_their_own_pixels():
    areas = []
    for seed in range(200):
        crop = draw_crop(100, 120, 200, AugmentConfig(resize=(0.75, 1.4)), rng(seed))
        seen = crop(np.full((100, 120, 1), 255, np.uint8), cv2.INTER_NEAREST)
        rows, columns = seen[..., 0].any(1).sum(), seen[..., 0].any(0).sum()
        assert rows / columns == pytest.approx(100 / 120, abs=0.01)
        areas.append(rows / 100)
    assert min(areas) == pytest.approx(0.75, abs=0.02)
    assert max(areas) == pytest.approx(1.4, abs=0.02)
    assert np.mean(areas) == pytest.approx(1.075, abs=0.04)


def test_sbd_is_flipped_and_turned_as_published():
    """Half of the images are flipped in one of three ways, half are turned by 0 to 3 quarters."""
    seen_before = {}
    for seen, labels in crops(101, 101, 101, 1200, turns=True):
        np.testing.assert_array_equal(seen, labels)
        corners = tuple(map(tuple, seen[[0, 0, -1], [0, -1, 0], :2]))
        seen_before[corners] = seen_before.get(corners, 0) + 1 / 1200
    assert len(seen_before) == 8
    straight = ((1, 1), (1, 101), (101, 1))
    # not flipped and not turned, or flipped both ways and turned by half
    assert seen_before[straight] == pytest.approx(0.5 * 0.625 + 0.125 / 6, abs=0.05)
    mirrored = sum(share for (a, b, c), share in seen_before.items() if _orientation(a, b, c) < 0)
    assert mirrored == pytest.approx(1 / 3, abs=0.05)


def _orientation(a, b, c):
    (across, down) = np.subtract(b, a), np.subtract(c, a)
    return across[1] * down[0] - across[0] * down[1]


def test_sbd_is_tilted_and_shifted_three_times_of_four():
    straight, angles, shifts = 0, [], []
    inner = np.mgrid[30:120, 30:170].reshape(2, -1)
    terms = np.column_stack([*inner, np.ones(inner.shape[1])])
    for seen, _ in crops(150, 200, 200, 300, tilt=3.0):
        there = seen[25:175]  # the padding is left out
        values = there[inner[0], inner[1], :2]
        if np.diff(there[75, 40:160, 1]).mean() < 0:  # mirrored before
            values[:, 1] = 201 - values[:, 1]
        fit, *_ = np.linalg.lstsq(terms, values - 1, rcond=None)  # source row and column of each pixel
        assert np.linalg.det(fit[:2]) == pytest.approx(1, abs=0.01)  # no change of scale
        angles.append(abs(math.degrees(math.atan2(fit[1, 0], fit[0, 0]))))
        shifts.append(np.abs(np.array([75, 100]) @ fit[:2] + fit[2] - [75, 100]) / [150, 200])
        straight += angles[-1] < 1e-6 and np.max(shifts[-1]) < 1e-6
    assert straight / 300 == pytest.approx(0.25, abs=0.07)
    assert 2.8 < max(angles) < 3.05
    assert 0.028 < np.max(shifts) < 0.036


def test_a_share_of_the_crops_without_an_object_is_kept():
    """An object that a crop shows once in 25 times: one crop in 25 is kept for it, and of the others one in 20."""
    labels = np.zeros((200, 200), np.uint8)
    labels[:20, :20] = 1  # shown by crops that begin in the first 20 of 100 rows and columns
    image = positions(200, 200)
    for keep in (0.05, 1.0, 0.0):
        settings = config(100, min_area=1, keep_background=keep)
        empty = [not (published_sample(image, labels, PLAIN, settings, rng(seed))[1] == 1).any() for seed in range(400)]
        assert np.mean(empty) == pytest.approx(0.96 * keep / (0.04 + 0.96 * keep), abs=0.075)


def test_without_an_object_there_are_only_negative_clicks_outside_what_is_too_small():
    labels = np.zeros((100, 100), np.uint8)
    labels[20:50, 35:65] = 3  # 900 pixels, and the same when mirrored
    settings = config(100, keep_background=0.0)  # the crop shows something, so it is kept
    clicks = 0
    for seed in range(60):
        _, target, points = published_sample(positions(100, 100), labels, PLAIN, settings, rng(seed))
        assert not target.any()
        assert (points[: len(points) // 2] == -1).all()
        used = points[points[:, 2] >= 0].astype(int)
        assert not labels[used[:, 0], used[:, 1]].any()
        clicks += len(used)
    assert clicks > 100
    labels[20:60, 35:65] = 3
    assert (published_sample(positions(100, 100), labels, PLAIN, settings, rng(0))[1] == 1).sum() == 1200
    assert published_sample(positions(100, 100), labels * 0, PLAIN, settings, rng(0)) is None
    assert not published_sample(positions(100, 100), labels * 0, PLAIN, config(100), rng(0))[1].any()


def test_parts_are_drawn_only_where_nothing_that_holds_them_is_left():
    person, shirt, button, dog = (0, 1), (1, 1), (2, 1), (0, 2)
    record = ImageRecord("a", "set", (1,), parts=((button, shirt), (shirt, person)))

    def drawn(*left):
        return {choose(left, record, 0.0, rng(seed))[0] for seed in range(40)}

    assert drawn(person, shirt, button, dog) == {person, dog}
    assert drawn(shirt, button, dog) == {shirt, dog}
    assert drawn(person, button) == {person}  # through a shirt that the crop does not show
    assert drawn(button) == {button}
    assert choose([], record, 0.15, rng(0)) == []
    circle = ImageRecord("a", "set", (1,), parts=((person, shirt), (shirt, person)))
    assert choose([button], circle, 0.15, rng(0)) == [button]  # a damaged file does not hang the training


def test_a_set_of_layers_gives_whole_objects_alone(tmp_path):
    root = write_community(tmp_path / "train", IMAGES)
    where = ["--community", str(root), "--images", str(root / "images"), "--out", str(tmp_path / "set")]
    assert build([*where, "--jobs", "1"]) == 0
    images = open_images(tmp_path, ["set"])
    (index,) = [n for n, record in enumerate(images.records) if record.key == "000000000009"]
    record, (image, layers) = images.records[index], images.load(index)
    objects = IMAGES[record.key]
    assert [o.parent for o in objects] == [None, 0, None, None]
    ((part, whole),) = record.parts
    np.testing.assert_array_equal(layers[..., part[0]] == part[1], objects[1].mask)
    np.testing.assert_array_equal(layers[..., whole[0]] == whole[1], objects[0].mask)
    drawn = []
    for seed in range(150):
        crop, target, _ = published_sample(image, layers, record, config(224, min_area=1), rng(seed))
        assert crop.shape == (224, 224, 3)
        seen = target[62:162, 52:172]  # 100 x 120 pixels in the middle
        assert seen.sum() == target.sum()
        sums = [n for n, o in enumerate(objects) if (o.mask == seen).all() or (o.mask[:, ::-1] == seen).all()]
        drawn.append(sums[0] if sums else "two")
    assert set(drawn) == {0, 2, 3, "two"}
    assert drawn.count("two") / 150 == pytest.approx(0.15, abs=0.08)
    assert drawn.count(3) / 150 == pytest.approx(0.85 * 0.3 / 3, abs=0.08)  # stuff counts in three of ten samples


def test_two_merged_objects_are_different_ones():
    record, places = PLAIN, [(0, 1), (0, 2), (0, 3)]
    merged = [choose(places, record, 1.0, rng(seed)) for seed in range(100)]
    assert {len(set(chosen)) for chosen in merged} == {2}
    assert len({frozenset(chosen) for chosen in merged}) == 3
    assert choose(places[:1], record, 1.0, rng(0)) == places[:1]
    counts = [len(choose(places, record, 0.15, rng(seed))) for seed in range(1000)]
    assert np.mean(counts) == pytest.approx(1.15, abs=0.04)


def test_ignored_pixels_stay_ignored():
    labels = np.zeros((80, 80), np.uint8)
    labels[10:60, 10:70] = 1
    labels[30:50, :] = 255
    for seed in range(10):
        _, target, points = published_sample(positions(80, 80), labels, PLAIN, config(80), rng(seed))
        assert (target[30:50] == 255).all()
        assert (target == 1).sum() == 30 * 60
        used = points[points[:, 2] >= 0].astype(int)
        assert not (target[used[:, 0], used[:, 1]] == 255).any()


def test_faulty_masks_of_sbd_are_dropped():
    labels = np.zeros((100, 100), np.uint8)
    labels[10:60, 10], labels[59, 10:60] = 1, 1  # 99 pixels of a box of 2,500
    labels[70:90, 20:24] = 2  # it fills its box
    labels[0:40, 90] = 7
    for value, box in ((3, slice(0, 0)), (7, slice(0, 40))):
        assert (without_slivers(labels) == value).sum() == box.stop
    assert set(np.unique(without_slivers(labels))) == {0, 2, 7}
    record = ImageRecord("a", "sbd", (1,))
    drawn = {
        int(
            (
                published_sample(positions(100, 100), labels, record, config(100, {"merge": 0}, min_area=20), rng(s))[1]
            ).sum()
        )
        for s in range(30)
    }
    assert drawn == {80, 40}


def test_brightness_and_channels_change_three_times_of_four_each():
    gray = np.full((4, 4, 3), 100, np.uint8)
    changed = [published_colour(gray, AugmentConfig(), rng(seed))[0, 0].astype(int) for seed in range(2000)]
    assert np.mean([(c == 100).all() for c in changed]) == pytest.approx(1 / 16, abs=0.025)
    assert np.mean([len(set(c)) == 1 for c in changed]) == pytest.approx(1 / 4, abs=0.04)  # no shift of channels
    assert max(max(c) - min(c) for c in changed) <= 20
    fixed = AugmentConfig(brightness=(0.1, 0.1), contrast=(0.4, 0.4), rgb_shift=0)
    tones = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    expected = np.clip(tones.astype(float) * 1.4 + 25.5, 0, 255).astype(np.uint8)
    seen = [published_colour(tones, fixed, rng(seed)) for seed in range(400)]
    bright = [np.array_equal(s, expected) for s in seen]
    assert all(b or np.array_equal(s, tones) for b, s in zip(bright, seen, strict=True))
    assert np.mean(bright) == pytest.approx(0.75, abs=0.07)


def test_a_sample_is_a_function_of_its_number(shard_root):
    settings = parse_config(
        {"recipe": "published", "size": 96, "data": {"shards": ["tiny.zip"]}, "augment": {"turns": True, "tilt": 3.0}}
    )
    images = open_images(shard_root, settings.data.shards)
    first, second = SampleSet(images, settings), SampleSet(pickle.loads(pickle.dumps(images)), settings)
    later = [second[number] for number in (3, 2, 1, 0)][::-1]
    for number, other in enumerate(later):
        sample = first[number]
        assert sample.number == number
        for name in ("image", "target", "points"):
            np.testing.assert_array_equal(getattr(sample, name), getattr(other, name))
    assert not np.array_equal(first[0].image, first[1].image)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"recipe": "official"}, "config.recipe must be one of own, published, got 'official'"),
        ({"recipe": "published", "augment": {"zoom": 0.1}}, "augment.zoom has no effect with recipe: published"),
        ({"recipe": "published", "points": {"border": 2}}, "points.border has no effect with recipe: published"),
        ({"recipe": "published", "data": {"least": 0.1}}, "data.least has no effect with recipe: published"),
        ({"augment": {"min_area": 80}}, "augment.min_area has no effect with recipe: own"),
        ({"augment": {"keep_background": 0.01}}, "augment.keep_background has no effect with recipe: own"),
        ({"recipe": "published", "augment": {"min_area": 0}}, "augment.min_area starts at 1"),
        ({"recipe": "published", "augment": {"keep_background": 2}}, "keep_background lies in"),
        ({"samples": 9, "stages": [{"until": 5}, {"recipe": "published"}]}, r"stages\[1\] cannot change recipe"),
        ({"optim": {"clip": 0}}, "optim.clip must be positive"),
        ({"optim": {"clip": "none"}}, "optim.clip must be a number"),
    ],
)
def test_mistakes_of_recipe_name_their_key(raw, text):
    with pytest.raises(ConfigError, match=text):
        parse_config(raw)
