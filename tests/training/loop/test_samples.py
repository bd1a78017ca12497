import json
import pickle
import zipfile

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from icmformer.errors import ConfigError, UnreadableImageError
from tests.conftest import ROOT
from tests.training.conftest import TINY_RUN
from training.data.held_out import HELD_OUT_SETS, held_out
from training.data.shards import Shard
from training.data.sources import open_images
from training.loop.augmentation import OTHER, AugmentConfig, view
from training.loop.config import parse_config
from training.loop.samples import RunSampler, SampleSet, collate

LIST = ROOT / "training" / "data" / "held_out.txt"


@pytest.fixture
def images(shard_root):
    return open_images(shard_root, ["tiny.zip"])


def test_held_out_images_are_never_listed_for_training(images, shard_root):
    every = Shard(shard_root / "tiny.zip", include_held_out=True)
    assert len(every.records) == 6
    assert {r.key for r in images.records} == {r.key for r in every.records if not held_out(r.set, r.key)}
    assert not {r.set for r in images.records} & HELD_OUT_SETS
    share = np.mean([held_out("coco", f"key{n}") for n in range(5000)])
    assert share == pytest.approx(26 / 256, abs=0.015)


def test_the_list_in_the_repository_is_what_is_held_out(shared):
    shards = sorted((shared / "data" / "train").glob("train-*.zip"))
    every = [record for path in shards for record in Shard(path, include_held_out=True).records]
    assert "".join(f"{r.set} {r.key}\n" for r in every if held_out(r.set, r.key)) == LIST.read_text()
    listed = {line.split()[1] for line in LIST.read_text().splitlines()}
    trained = open_images(shared / "data" / "train", [s.name for s in shards]).records
    assert not listed & {r.key for r in trained}
    assert not {r.set for r in trained} & HELD_OUT_SETS
    by_hash = [line for line in LIST.read_text().splitlines() if line.split()[0] not in HELD_OUT_SETS]
    assert len(by_hash) / (len(by_hash) + len(trained)) == pytest.approx(0.1, abs=0.01)


def test_a_sample_is_a_function_of_its_number(images, tiny_config):
    first, second = SampleSet(images, tiny_config), SampleSet(pickle.loads(pickle.dumps(images)), tiny_config)
    for number in (3, 0, 7):
        a, b = first[number], second[number]
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.target, b.target)
        np.testing.assert_array_equal(a.points, b.points)
    assert not np.array_equal(first[1].image, first[2].image)


def test_targets_lie_on_their_objects(images, tiny_config):
    samples = SampleSet(images, tiny_config)
    for number in range(20):
        sample = samples[number]
        assert sample.image.shape == (224, 224, 3)
        assert set(np.unique(sample.target)) <= {0, 1, 255}
        assert (sample.target == 1).any()
        slots = len(sample.points) // 2
        for row, column, _ in sample.points[:slots][sample.points[:slots, 2] >= 0]:
            assert sample.target[int(row), int(column)] == 1


def test_only_images_with_a_permissive_licence_are_drawn_where_the_config_says_so(tmp_path, tiny_config):
    licences = {"open": True, "unnamed": None, "closed": False, "doubtful": "no"}
    gray = {"open": 40, "unnamed": 120, "closed": 200, "doubtful": 160}
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as archive:
        rows = []
        for key, permissive in licences.items():
            labels = np.zeros((120, 160), np.uint8)
            labels[30:90, 40:110] = 1
            pixels = np.full((120, 160, 3), gray[key], np.uint8)
            archive.writestr(f"{key}.webp", cv2.imencode(".webp", pixels)[1].tobytes())
            archive.writestr(f"{key}.png", cv2.imencode(".png", labels)[1].tobytes())
            rows.append({"key": key, "set": "coco", "labels": [1]})
            if permissive is not None:
                rows[-1]["permissive"] = permissive
        archive.writestr("index.jsonl", "\n".join(map(json.dumps, rows)))
    plain = {"brightness": [0, 0], "contrast": [0, 0], "rgb_shift": 0, "gray": 0, "whole": 1, "zoom": 0}
    config = parse_config({**TINY_RUN, "augment": plain})
    shown = {}
    for wish in (False, True):
        images = open_images(tmp_path, ["tiny.zip"], wish)
        samples = SampleSet(images, config)
        shown[wish] = {round(int(samples.sample(n).image[112, 112, 0]) / 20) * 20 for n in range(60)}
        assert len(images.records) == len(shown[wish])
        assert sorted(images.spread(10)) == list(range(len(images.records)))
    assert shown == {False: set(gray.values()), True: {40}}
    for folder, picture in (("images", pixels), ("masks", labels)):
        (tmp_path / "team" / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "team" / folder / "a.png"), picture)
    with pytest.raises(ConfigError, match=r"no image in team of .* is said to have such a licence"):
        open_images(tmp_path, ["team"], permissive=True)


def test_views_keep_image_object_and_other_objects_together():
    rows, columns = np.mgrid[:100, :150]
    mask = ((rows - 40) ** 2 + (columns - 70) ** 2 < 400).astype(np.uint8)
    mask[75:95, 100:140] = OTHER
    image = np.stack([(mask == 1) * 200, (mask == OTHER) * 200, mask * 0], axis=2).astype(np.uint8)
    met = 0
    for seed in range(40):
        seen, cut = view(image, mask, 96, AugmentConfig(), np.random.default_rng(seed))
        for value, channel in ((1, 0), (OTHER, 1)):
            certain = (cut != 255) & ((seen[..., channel] < 30) | (seen[..., channel] > 170))
            assert ((seen[..., channel] > 100) == (cut == value))[certain].mean() > 0.97
            met += (cut == value).any()
    assert met > 60


def test_processes_share_each_batch_without_overlap():
    taken = [list(RunSampler(start=8, stop=26, batch=4, rank=rank, world=2)) for rank in range(2)]
    assert taken == [[8, 9, 12, 13, 16, 17, 20, 21], [10, 11, 14, 15, 18, 19, 22, 23]]


def test_a_batch_holds_what_networks_take(images, tiny_config):
    samples = SampleSet(images, tiny_config)
    batch = collate([samples[0], samples[1]])
    assert batch.image.shape == (2, 3, 224, 224)
    np.testing.assert_array_equal(batch.image[1, :, 5, 9], samples[1].image[5, 9])
    pixels = batch.pixels(torch.device("cpu"), channels_last=True)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[1, :, 5, 9] * 255, samples[1].image[5, 9], atol=1e-4)
    np.testing.assert_array_equal(batch.target[0, 0] == -1, samples[0].target == 255)
    assert set(np.unique(batch.target.numpy())) <= {-1, 0, 1}
    assert batch.numbers == (0, 1)
    first, second = batch.split(2)
    assert (first.numbers, second.numbers) == ((0,), (1,))
    assert (second.image == batch.image[1:]).all()


def write_pair(root, name, pixels, mask):
    for folder, content in (("images", pixels), ("masks", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(root / folder / f"{name}.png")


def test_folders_of_pairs_are_read_beside_shards(shard_root, tmp_path):
    image = data.chelsea()
    labels = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(labels, (200, 100), 50, 7, -1)
    cv2.circle(labels, (350, 200), 30, 9, -1)
    labels[:10] = 255
    write_pair(tmp_path / "team", "cat", image, labels)
    write_pair(tmp_path / "team", "whole", image, np.where(labels == 7, 255, 0).astype(np.uint8))
    (tmp_path / "tiny.zip").symlink_to(shard_root / "tiny.zip")
    images = open_images(tmp_path, ["tiny.zip", "team"])
    cat, whole = images.records[-2:]
    assert (cat.key, cat.set, cat.labels) == ("cat", "team", (1, 2))
    assert whole.labels == (1,)
    pixels, read = images.load(len(images.records) - 2)
    np.testing.assert_array_equal(pixels, image)
    for ours, theirs in ((1, 7), (2, 9), (255, 255), (0, 0)):
        np.testing.assert_array_equal(read == ours, labels == theirs)
    np.testing.assert_array_equal(images.load(len(images.records) - 1)[1], labels == 7)
    np.testing.assert_array_equal(images.load(0)[0], Shard(shard_root / "tiny.zip").load(0)[0])


def test_what_cannot_be_trained_on_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"no shard .*none\.zip"):
        open_images(tmp_path, ["none.zip"])
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ConfigError, match=r"text\.zip is not a shard"):
        open_images(tmp_path, ["text.zip"])
    with pytest.raises(ConfigError, match="there is no folder"):
        open_images(tmp_path, ["nothing"])
    blank = np.zeros((20, 20), np.uint8)
    write_pair(tmp_path / "colour", "a", np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ConfigError, match="in colour"):
        open_images(tmp_path, ["colour"])
    write_pair(tmp_path / "sizes", "a", np.zeros((20, 30, 3), np.uint8), blank + 1)
    with pytest.raises(UnreadableImageError, match=r"sizes: a: .* of different sizes: 30 x 20 and 20 x 20 pixels"):
        open_images(tmp_path, ["sizes"]).load(0)


def test_large_images_are_averaged_not_sampled():
    """A fine checkerboard seen from afar is gray."""
    board = np.indices((1200, 1600)).sum(axis=0) % 2 * 255
    image = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    mask = np.zeros(board.shape, np.uint8)
    mask[300:900, 400:1200] = 1
    seen, cut = view(image, mask, 96, AugmentConfig(whole=1.0), np.random.default_rng(0))
    assert np.abs(seen.astype(int) - 127).max() <= 2
    assert (cut == 1).mean() == pytest.approx(0.25, abs=0.01)
    image = np.where(mask[..., None] == 1, np.uint8(200), np.uint8(20)).repeat(3, axis=2)
    seen, cut = view(image, mask, 96, AugmentConfig(whole=1.0), np.random.default_rng(1))
    certain = (seen[..., 0] < 40) | (seen[..., 0] > 180)
    np.testing.assert_array_equal((seen[..., 0] > 110)[certain], (cut == 1)[certain])


def test_a_set_without_any_object_is_refused_before_training_waits_for_one(tmp_path, tiny_config):
    write_pair(tmp_path / "blank", "a", np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8))
    with pytest.raises(ConfigError, match="no labelled image"):
        open_images(tmp_path, ["blank"])
