"""The training step, and a run that stops and goes on as if it never stopped."""

import dataclasses
import multiprocessing
from contextlib import closing

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import nn

from icmformer.errors import TrainingError
from icmformer.models import ImageFeatures
from tests.training.conftest import TINY_RUN
from training.data.decoded import Decoded
from training.data.sources import open_images
from training.loop.config import OptimConfig, parse_config, stages
from training.loop.optimiser import learning_rate
from training.loop.samples import Batch, SampleSet
from training.loop.trainer import IterativePass, Trainer, batches


def trained(config, root, steps, state=None):
    """A trainer after some steps, and the losses it met."""
    trainer = Trainer(config, torch.device("cpu"))
    if state is not None:
        trainer.load_state_dict(state)
    images = open_images(root, config.data.shards)
    losses = []
    while trainer.next_stage() and len(losses) < steps:
        for batch in batches(SampleSet(images, trainer.config), trainer.stage, trainer.seen, workers=0):
            losses.append(trainer.train_step(batch).scalars["loss"])
            if len(losses) == steps:
                break
    return trainer, losses


def assert_same_weights(one, other):
    for key in ("network", "average"):
        for name, tensor in one.state_dict()[key].items():
            assert torch.equal(other.state_dict()[key][name], tensor), name


class Fixed(nn.Module):
    """Answers with one given mask whatever it is shown, and remembers what it was shown."""

    def __init__(self, mask):
        super().__init__()
        self.answer = torch.from_numpy(mask).float()[None, None] * 8 - 4
        self.shown = []

    def encode_image(self, image):
        return ImageFeatures(image.shape[2:], (image.mean(dim=1, keepdim=True),))

    def prompt_map(self, previous, points):
        return previous, points

    def decode_map(self, features, prompt):
        self.shown.append((*map(torch.clone, prompt), self.training, features.tensors[0].requires_grad))
        return self.answer + 0 * features.tensors[0]


def test_each_round_adds_a_click_where_the_prediction_is_wrong_and_feeds_it_back():
    target = np.zeros((64, 64), np.int64)
    target[8:40, 8:40] = 1
    guess = target.copy()
    guess[8:40, 28:40] = 0  # a strip is missing, and there is a smaller patch too much
    guess[50:56, 50:56] = 1
    points = np.full((1, 8, 3), -1.0, np.float32)
    points[0, 0] = (20, 16, 0)
    network = Fixed(guess).train()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    batch = Batch((5,), image, torch.from_numpy(target)[None, None], torch.from_numpy(points))
    logits, used = IterativePass(network)(image, batch, rounds=2, seed=0)
    assert logits.requires_grad
    assert network.training

    (empty, first, *quiet), (fed, second, *_), (last, third, *learning) = network.shown
    assert quiet == [False, False]  # evaluation mode, and no gradient
    assert learning == [True, True]
    assert not empty.any()
    np.testing.assert_allclose(fed[0, 0].numpy(), 1 / (1 + np.exp(4 - 8 * guess)), atol=1e-5)
    assert torch.equal(fed, last)
    missing = (target == 1) & (guess == 0)
    depth = distance_transform_edt(np.pad(missing, 1))[1:-1, 1:-1]
    assert [int((p[..., 2] >= 0).sum()) for p in (first, second, third)] == [1, 2, 3]
    for row, column, order in third[0, 1:3].tolist():  # both new clicks are positive, in the strip's inner half
        assert depth[int(row), int(column)] > depth.max() / 2 - 0.5
        assert order in (1, 2)
    assert torch.equal(used, third)


def test_rounds_and_dropout_draw_from_the_step_not_from_what_ran_before(tiny_config, shard_root):
    config = dataclasses.replace(tiny_config, dropout=0.5)
    _, one = trained(config, shard_root, 3)
    torch.rand(1000)
    _, other = trained(config, shard_root, 3)
    assert one == other


def test_a_batch_in_parts_makes_the_same_step(tiny_config, shard_root):
    whole_config = dataclasses.replace(tiny_config, batch=4, dropout=0.0, samples=40)
    whole, losses = trained(whole_config, shard_root, 4)
    parts, in_parts = trained(dataclasses.replace(whole_config, accumulate=4), shard_root, 4)
    np.testing.assert_allclose(in_parts, losses, atol=1e-5)
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(parts.network.state_dict()[name], tensor, rtol=0, atol=2e-4)


@pytest.mark.parametrize("network", ["icmformer_vit_tiny224", "icmformer_hybrid_lite320", "simpleclick_vit_tiny224"])
def test_rounds_in_bf16_leave_every_parameter_its_gradient(network):
    config = parse_config({"network": network, "size": 224, "batch": 1, "precision": "bf16"})
    trainer = Trainer(config, torch.device("cpu"))
    target = torch.zeros(1, 1, 224, 224, dtype=torch.int64)
    target[..., 60:160, 60:160] = 1
    points = torch.full((1, 8, 3), -1.0)
    points[0, 0] = torch.tensor([100.0, 100.0, 0.0])
    batch = Batch((0,), torch.rand(1, 3, 224, 224), target, points)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = IterativePass(trainer.network.train())(batch.image, batch, 2, 0)
    logits.float().mean().backward()
    assert not [name for name, p in trainer.network.named_parameters() if p.grad is None]


def test_a_gradient_that_is_no_number_changes_nothing(tiny_config, shard_root):
    trainer, _ = trained(dataclasses.replace(tiny_config, batch=2, accumulate=2), shard_root, 1)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    images = open_images(shard_root, tiny_config.data.shards)
    batch = next(batches(SampleSet(images, trainer.config), trainer.stage, 2, workers=0))
    factors = iter([float("nan"), 1.0])  # in the first of two parts
    next(trainer.network.parameters()).register_hook(lambda gradient: gradient * next(factors))
    with pytest.raises(TrainingError, match="the last checkpoint is from before"):
        trainer.train_step(batch)
    for key in ("network", "average"):
        assert all(torch.isfinite(v).all() for v in trainer.state_dict()[key].values())
    assert all(torch.equal(v, before[k]) for k, v in trainer.network.state_dict().items())


def test_who_leaves_early_leaves_no_workers_behind(tiny_config, shard_root):
    """Workers ignore SIGTERM, so one that is not told to end would keep the run from ending.

    They are told by `DataLoader`'s private `_shutdown_workers`: where this fails, torch has renamed or changed it, and
    `batches` needs another way.
    """
    images = open_images(shard_root, tiny_config.data.shards)
    source = batches(SampleSet(images, tiny_config), stages(tiny_config)[0], 0, workers=1)
    next(source)
    (worker,) = multiprocessing.active_children()
    source.close()
    assert not worker.is_alive()


def test_the_average_follows_the_weights(tiny_config, shard_root):
    trainer, _ = trained(tiny_config, shard_root, 4)
    name = "neck.down_16.0.weight"
    start = Trainer(tiny_config, torch.device("cpu")).network.state_dict()[name]
    now, average = trainer.network.state_dict()[name], trainer.average.network.state_dict()[name]
    assert not torch.equal(now, average)
    assert (average - start).norm() < (now - start).norm()


def test_without_a_decay_the_average_is_the_weights(tiny_config, shard_root):
    trainer, _ = trained(dataclasses.replace(tiny_config, optim=OptimConfig(lr=0.01, ema=0)), shard_root, 4)
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(trainer.average.network.state_dict()[name], tensor), name


def test_gradients_are_clipped_unless_the_limit_is_null(tiny_config, shard_root):
    moved = {}
    for clip in (None, 1e6, 1e-4):
        optim = OptimConfig(lr=0.01, clip=clip)
        moved[clip], _ = trained(dataclasses.replace(tiny_config, optim=optim), shard_root, 1)
    assert_same_weights(moved[None], moved[1e6])
    first = [next(iter(trainer.optimizer.state.values()))["exp_avg"].norm() for trainer in moved.values()]
    assert first[0] == first[1] > 10 * first[2]


def test_a_loss_that_is_no_number_stops_the_run(tiny_config, shard_root):
    wild = dataclasses.replace(tiny_config, optim=OptimConfig(lr=1e18, clip=1e18))
    with pytest.raises(TrainingError, match="learning rate"):
        trained(wild, shard_root, 6)


STAGED = {
    **TINY_RUN,
    "samples": 14,
    "optim": {"lr": 0.001, "warmup_samples": 4, "lr_factors": {"backbone.": 0}},
    "stages": [{"until": 7}, {"optim": {"lr": 0.0001, "lr_factors": {"backbone.": 0.5}}}],
}


def test_stages_freeze_thaw_and_start_their_schedule_anew(shard_root):
    config = parse_config(STAGED)
    start = Trainer(config, torch.device("cpu")).network.state_dict()
    first, _ = trained(config, shard_root, 3)
    moved = {k for k, v in first.network.state_dict().items() if not torch.equal(v, start[k])}
    assert moved
    assert not any(name.startswith("backbone.") for name in moved)
    both, _ = trained(config, shard_root, 4)
    assert both.seen == 7 + 2  # the sample that is left over of the first stage is skipped
    assert both.stage is both.stages[1]
    rates = sorted({group["lr"] for group in both.optimizer.param_groups})
    assert rates == pytest.approx([0.00005 / 5, 0.0001 / 5])
    assert any(not torch.equal(v, start[k]) for k, v in both.network.state_dict().items() if k.startswith("backbone."))


def test_resuming_across_a_stage_is_exact(shard_root):
    config = parse_config(STAGED)
    whole, _ = trained(config, shard_root, 6)
    for steps in (2, 3, 4):
        half, _ = trained(config, shard_root, steps)
        resumed, _ = trained(config, shard_root, 6 - steps, half.state_dict())
        assert resumed.seen == whole.seen
        assert_same_weights(whole, resumed)


def test_schedules():
    warm = OptimConfig(lr=1.0, warmup_samples=100)
    assert learning_rate(warm, 0, 1000) < 0.02
    assert learning_rate(warm, 100, 1000) == 1.0
    step = OptimConfig(lr=1.0, schedule="step", steps=(0.5, 0.9))
    assert [learning_rate(step, n, 100) for n in (49, 50, 89, 90)] == pytest.approx([1, 0.1, 0.1, 0.01])
    cosine = OptimConfig(lr=1.0, schedule="cosine")
    assert learning_rate(cosine, 50, 100) == pytest.approx(0.5)
    assert learning_rate(cosine, 100, 100) == pytest.approx(0, abs=1e-9)


def test_a_run_ends_after_its_last_whole_batch(tiny_config, shard_root):
    config = dataclasses.replace(tiny_config, samples=7)
    trainer, losses = trained(config, shard_root, 100)
    assert (len(losses), trainer.seen) == (3, 6)
    assert stages(config)[0].until == 7


def test_samples_do_not_depend_on_workers_nor_on_what_is_kept(tiny_config, shard_root):
    told = []
    for workers, limit in ((0, 0), (1, 10**6), (2, 10**6), (2, 10**5)):
        images = Decoded(open_images(shard_root, tiny_config.data.shards), limit)
        with closing(batches(SampleSet(images, tiny_config), stages(tiny_config)[0], 0, workers)) as source:
            told.append(list(source))
    for others in told[1:]:
        assert len(others) == len(told[0]) == tiny_config.samples // tiny_config.batch
        for ours, theirs in zip(told[0], others, strict=True):
            assert ours.numbers == theirs.numbers
            for name in ("image", "target", "points"):
                assert torch.equal(getattr(ours, name), getattr(theirs, name))
