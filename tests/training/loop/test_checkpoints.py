"""What a run leaves on the disk, and takes up again."""

import dataclasses
import threading

import pytest
import torch

from icmformer import weights
from icmformer.errors import WeightsError
from tests.training.conftest import TINY_RUN
from tests.training.loop.test_trainer import assert_same_weights, trained
from training.data.sources import open_images
from training.loop import checkpoints as checkpoint
from training.loop.checkpoints import CheckpointWriter, export, load_checkpoint
from training.loop.config import parse_config
from training.loop.samples import SampleSet
from training.loop.trainer import Trainer, batches


def saved(trainer, path, **options):
    with CheckpointWriter() as writer:
        writer.save(trainer, path, **options)


def test_resuming_is_exact(tiny_config, shard_root, tmp_path):
    whole, _ = trained(tiny_config, shard_root, 5)
    half, _ = trained(tiny_config, shard_root, 2)
    saved(half, tmp_path / "half.pt", best=3.5)
    fresh = Trainer(tiny_config, torch.device("cpu"))
    assert load_checkpoint(fresh, tmp_path / "half.pt") == (3.5, [])
    other = dataclasses.replace(tiny_config, seed=4)
    assert load_checkpoint(Trainer(other, torch.device("cpu")), tmp_path / "half.pt")[1] == ["seed"]
    content = torch.load(tmp_path / "half.pt", weights_only=True)  # as of a version that knew fewer keys, and one more
    del content["config"]["gradient_checkpointing"], content["config"]["data"]["balance"]
    torch.save({**content, "config": {**content["config"], "recompute": False}}, tmp_path / "earlier.pt")
    assert load_checkpoint(Trainer(other, torch.device("cpu")), tmp_path / "earlier.pt")[1] == ["seed"]
    resumed, _ = trained(tiny_config, shard_root, 3, fresh.state_dict())
    assert resumed.seen == whole.seen == 10
    assert_same_weights(whole, resumed)


def test_what_is_no_checkpoint_of_this_network_is_refused(tiny_config, tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_checkpoint(Trainer(tiny_config, torch.device("cpu")), tmp_path / "text.pt")
    saved(Trainer(tiny_config, torch.device("cpu")), tmp_path / "tiny.pt")
    wider = parse_config({**TINY_RUN, "network": {**TINY_RUN["network"], "embed_dim": 32}})
    with pytest.raises(WeightsError, match="another network"):
        load_checkpoint(Trainer(wider, torch.device("cpu")), tmp_path / "tiny.pt")


def test_what_an_earlier_checkpoint_says_of_serving_is_exported(tiny_config, tmp_path):
    """Its config had the keys beside the others, not in a section of their own."""
    saved(Trainer(tiny_config, torch.device("cpu")), tmp_path / "run.pt")
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    content["config"] |= {"min_crop_size": 50, "click_margin": 5}
    del content["config"]["serving"]
    torch.save(content, tmp_path / "run.pt")
    assert export(tmp_path / "run.pt", tmp_path / "w", "earlier") == 0
    made = weights.load(tmp_path / "w")
    assert (made.serving.min_crop_size, made.serving.click_margin) == (50, 5)


def test_a_checkpoint_holds_the_moment_it_was_asked_for_whatever_is_trained_meanwhile(
    tiny_config, shard_root, tmp_path, monkeypatch
):
    saved(trained(tiny_config, shard_root, 2)[0], tmp_path / "expected.pt")
    trainer, _ = trained(tiny_config, shard_root, 2)
    batch = next(iter(batches_of(trainer, shard_root)))
    go, write = threading.Event(), checkpoint._write

    def slow(content, path):
        assert go.wait(60)
        write(content, path)

    monkeypatch.setattr(checkpoint, "_write", slow)
    with CheckpointWriter() as writer:
        writer.save(trainer, tmp_path / "kept.pt")
        assert not (tmp_path / "kept.pt").exists()  # it did not wait for the disk
        trainer.train_step(batch)
        go.set()
    kept, expected = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("kept", "expected"))
    assert kept["state"]["seen"] == expected["state"]["seen"] == 4
    assert trainer.seen == 6
    assert_equal(kept["state"], expected["state"])


def batches_of(trainer, root):
    images = open_images(root, trainer.config.data.shards)
    return batches(SampleSet(images, trainer.config), trainer.stage, trainer.seen, workers=0)


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
