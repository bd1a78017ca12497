import pickle

import numpy as np
import pytest

from training.augment import AugmentConfig, view
from training.data.shards import HELD_OUT_SETS, Shards, held_out
from training.samples import RunSampler, SampleSet, collate


@pytest.fixture
def shards(shard_root):
    return Shards([shard_root / "tiny.zip"])


def test_held_out_photos_are_never_listed_for_training(shards, shard_root):
    every = Shards([shard_root / "tiny.zip"], include_held_out=True)
    assert len(every) == 6
    assert {r.key for r in shards.records} == {r.key for r in every.records if not held_out(r.set, r.key)}
    assert not {r.set for r in shards.records} & HELD_OUT_SETS
    share = np.mean([held_out("coco", f"key{n}") for n in range(5000)])
    assert share == pytest.approx(26 / 256, abs=0.015)


def test_real_shards_leave_out_a_tenth_and_three_sets(shared):
    path = shared / "data" / "train" / "train-000.zip"
    every, used = Shards([path], include_held_out=True), Shards([path])
    counted = [r for r in every.records if r.set not in HELD_OUT_SETS]
    assert {r.set for r in every.records} > HELD_OUT_SETS
    assert not {r.set for r in used.records} & HELD_OUT_SETS
    assert len(used) / len(counted) == pytest.approx(0.9, abs=0.02)


def test_a_sample_is_a_function_of_its_number(shards, tiny_config):
    first, second = SampleSet(shards, tiny_config), SampleSet(pickle.loads(pickle.dumps(shards)), tiny_config)
    for number in (3, 0, 7):
        a, b = first[number], second[number]
        np.testing.assert_array_equal(a.photo, b.photo)
        np.testing.assert_array_equal(a.target, b.target)
        np.testing.assert_array_equal(a.points, b.points)
    assert not np.array_equal(first[1].photo, first[2].photo)


def test_targets_lie_on_their_objects(shards, tiny_config):
    samples = SampleSet(shards, tiny_config)
    for number in range(20):
        sample = samples[number]
        assert sample.photo.shape == (224, 224, 3)
        assert set(np.unique(sample.target)) <= {0, 1, 255}
        assert (sample.target == 1).any()
        slots = len(sample.points) // 2
        for row, column, _ in sample.points[:slots][sample.points[:slots, 2] >= 0]:
            assert sample.target[int(row), int(column)] == 1


def test_views_keep_photo_and_mask_together():
    rows, columns = np.mgrid[:100, :150]
    mask = ((rows - 40) ** 2 + (columns - 70) ** 2 < 400).astype(np.uint8)
    photo = np.repeat(mask[..., None] * 200, 3, axis=2).astype(np.uint8)
    for seed in range(40):
        seen, cut = view(photo, mask, 96, AugmentConfig(), np.random.default_rng(seed))
        bright = seen[..., 0] > 100
        certain = (cut != 255) & ((seen[..., 0] < 30) | (seen[..., 0] > 170))
        assert (bright == (cut == 1))[certain].mean() > 0.97


def test_processes_share_each_batch_without_overlap():
    taken = [list(RunSampler(start=8, stop=26, batch=4, rank=rank, world=2)) for rank in range(2)]
    assert taken == [[8, 9, 12, 13, 16, 17, 20, 21], [10, 11, 14, 15, 18, 19, 22, 23]]


def test_a_batch_holds_what_networks_take(shards, tiny_config):
    samples = SampleSet(shards, tiny_config)
    batch = collate([samples[0], samples[1]])
    assert batch.image.shape == (2, 3, 224, 224)
    np.testing.assert_allclose(batch.image[1, :, 5, 9].numpy() * 255, samples[1].photo[5, 9], atol=1e-3)
    assert set(np.unique(batch.target.numpy())) <= {-1, 0, 1}
    assert batch.numbers == (0, 1)
