"""Training on a GPU: the CPU's steps, each way of taking them, runs that stop there and go on here, and NCCL."""

import dataclasses
import gc
import json
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from icmformer.errors import TrainingError
from icmformer.inference.backends.torch import Precision
from tests.gpu.conftest import CPU
from tests.training.conftest import TINY_RUN
from tests.training.loop.test_clicks import wrong_maps
from training.data.sources import open_images
from training.loop.checkpoints import CheckpointWriter, load_checkpoint
from training.loop.config import parse_config
from training.loop.corrections import clicks_at_once
from training.loop.processes import joined
from training.loop.run import RunOptions, train
from training.loop.samples import SampleSet, stack
from training.loop.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(60)]
PLAIN = parse_config({**TINY_RUN, "samples": 1000, "max_rounds": 0, "dropout": 0.0, "pictures": 0})
"""No rounds, in which a click may move with the last bit of a probability, and nothing drawn on the device."""
STEPS = 3


@pytest.fixture(autouse=True)
def _fp32(device):
    """Torch lets convolutions round to TF32 unless it is told otherwise."""
    with Precision().applied(device):
        yield


def batch(trainer, root, first):
    """The step's batch that begins with a sample."""
    samples = SampleSet(open_images(root, trainer.config.data.shards), trainer.config)
    return stack([samples.sample(number) for number in range(first, first + trainer.config.batch)])


def taken(trainer, root, steps=STEPS):
    """Losses of some steps, and the gradients of the first."""
    losses, gradients = [], {}
    for _ in range(steps):
        losses.append(trainer.train_step(batch(trainer, root, trainer.seen)).scalars["loss"])
        gradients = gradients or {n: p.grad.cpu().clone() for n, p in trainer.network.named_parameters()}
    return losses, gradients


def assert_same_steps(one, other, losses, gradients):
    """Within what the order of additions makes of fp32: 1e-7 of the largest gradient on a CPU, here 1e-5.

    Adam divides a gradient by its own size, so that where it is all but zero its noise alone moves a weight: weights
    are compared where the first gradient is over a hundredth of the largest. With noise of 1e-5 in the gradients they
    then differ by 5e-6 after three steps, in which they move by 5e-4.
    """
    (losses, gradients), (other_losses, other_gradients) = losses, gradients
    assert losses == pytest.approx(other_losses, abs=1e-5)
    top = max(float(g.abs().max()) for g in gradients.values())
    assert max(float((g - other_gradients[n]).abs().max()) for n, g in gradients.items()) < 1e-4 * top
    compared = 0
    weights, others = one.network.state_dict(), other.network.state_dict()
    for name, gradient in gradients.items():
        large = gradient.abs() > 0.01 * top
        compared += int(large.sum())
        difference = (weights[name].cpu() - others[name].cpu())[large].abs()
        assert not large.any() or float(difference.max()) < 2e-5, name
    assert compared > 1000


@pytest.fixture(scope="module")
def on_cpu(shard_root):
    """Plain steps on the CPU: the trainer after them, losses and first gradients."""
    trainer = Trainer(PLAIN, CPU)
    return trainer, taken(trainer, shard_root)


@pytest.mark.parametrize(
    "how", [{}, {"channels_last": True}, {"gradient_checkpointing": True}, {"accumulate": 2}], ids=str
)
def test_steps_in_fp32_are_the_cpus(device, on_cpu, shard_root, how):
    right, told = on_cpu
    trainer = Trainer(dataclasses.replace(PLAIN, **how), device)
    assert next(trainer.network.parameters()).device.type == device.type
    assert_same_steps(right, trainer, told, taken(trainer, shard_root))


@pytest.mark.parametrize("how", [{}, {"channels_last": True, "gradient_checkpointing": True}], ids=str)
def test_with_bf16_rounds_and_dropout_the_loss_falls(device, shard_root, how):
    config = dataclasses.replace(PLAIN, precision="bf16", max_rounds=3, dropout=0.1, **how)
    trainer = Trainer(config, device)
    seen = batch(trainer, shard_root, 0)
    losses = [trainer.train_step(seen).scalars["loss"] for _ in range(16)]
    assert max(losses[-3:]) < min(losses[:3])
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())


def test_gradient_checkpointing_takes_less_memory(cuda):
    """The blocks' share is the larger one in this network."""
    peaks = []
    for checkpointing in (False, True):
        config = parse_config({"network": "icmformer_vit_tiny224", "gradient_checkpointing": checkpointing})
        trainer = Trainer(config, cuda)
        image = torch.rand(8, 3, 224, 224, device=cuda)
        clicks = torch.tensor([[[100.0, 100, 0], [-1, -1, -1]]]).repeat(8, 1, 1).to(cuda)
        torch.cuda.reset_peak_memory_stats(cuda)
        before = torch.cuda.memory_allocated(cuda)
        trainer.network.train()(image, torch.zeros_like(image[:, :1]), clicks).mean().backward()
        peaks.append(torch.cuda.max_memory_allocated(cuda) - before)
    assert peaks[1] < 0.8 * peaks[0]


@pytest.mark.parametrize("way", ["device to device", "device to CPU", "CPU to device"])
def test_a_checkpoint_goes_on_here_and_there(device, shard_root, tmp_path, way):
    """Bit for bit; the steps after it as exactly as two devices agree: in a GPU's backward pass, sums have no order."""
    begins, ends = ({"device": device, "CPU": CPU}[name] for name in way.split(" to "))
    whole = Trainer(PLAIN, begins)
    taken(whole, shard_root, 2)
    with CheckpointWriter() as writer:
        writer.save(whole, tmp_path / "checkpoint.pt")
    resumed = Trainer(PLAIN, ends)
    _, changed = load_checkpoint(resumed, tmp_path / "checkpoint.pt")
    assert not changed
    assert (resumed.seen, resumed.step) == (whole.seen, whole.step) == (4, 2)
    assert_same_state(resumed.state_dict(), whole.state_dict())
    assert_same_steps(whole, resumed, taken(whole, shard_root), taken(resumed, shard_root))


def assert_same_state(one, other):
    """The same bits in all tensors, wherever they are."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one.cpu(), other.cpu())
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    else:
        assert one == other


def test_a_run_trains_to_its_end_and_knows_it(device, shard_root, tmp_path, capfd):
    """As the command does it, with processes that prepare samples beside a GPU in use."""
    config = parse_config({**TINY_RUN, "precision": "bf16", "samples": 24, "max_rounds": 2})
    options = RunOptions(shard_root, tmp_path / "run", device=str(device), threads=1, workers=2)
    assert train(config, options).finished
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["seen"] for row in rows] == list(range(2, 25, 2))
    assert all(0 < row["loss"] < 1 for row in rows)
    assert train(config, options).finished
    assert "going on after 24 samples" in capfd.readouterr().out


@pytest.fixture
def torchrun_of_one(monkeypatch):
    """The environment in which torchrun starts the only process of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**variables, "TORCHELASTIC_RUN_ID": "one"}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("torchrun_of_one")
@pytest.mark.parametrize("extras", [False, True])
def test_one_process_of_torchrun_trains_as_without_it(device, shard_root, extras):
    """Over NCCL on a GPU. With `extras` there are parameters that no pass touches."""
    config = dataclasses.replace(PLAIN, network={**TINY_RUN["network"], "published_extras": extras}, accumulate=2)
    alone = Trainer(config, device)
    right = [alone.train_step(batch(alone, shard_root, alone.seen)).scalars for _ in range(STEPS)]
    with joined(device) as processes:
        assert (processes.rank, processes.world) == (0, 1)
        assert dist.get_backend() == ("nccl" if device.type == "cuda" else "gloo")
        shared = torch.full((3,), 2.0, device=device)
        dist.all_reduce(shared)
        assert shared.tolist() == [2.0] * 3
        everyone = [None]
        dist.all_gather_object(everyone, {"seen": 4})
        assert everyone == [{"seen": 4}]
        trainer = Trainer(config, device)
        assert isinstance(trainer._pass, DistributedDataParallel)
        found = [trainer.train_step(batch(trainer, shard_root, trainer.seen)).scalars for _ in range(STEPS)]
        del trainer  # who holds the group keeps its threads
    for one, other in zip(found, right, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-3)
    assert not dist.is_initialized()


def test_clicks_are_those_that_the_cpu_draws_the_same_way(device):
    wrong, draws = torch.from_numpy(wrong_maps()), np.random.default_rng(3).random((5, 2))
    assert clicks_at_once(wrong.to(device), draws, 0.3) == clicks_at_once(wrong, draws, 0.3)


def test_a_step_without_memory_says_what_to_do(cuda, shard_root, tmp_path):
    gc.collect()
    torch.cuda.empty_cache()
    here, total = torch.cuda.current_device(), torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 32 * 2**20) / total), here)
    try:
        with pytest.raises(TrainingError, match="raise `accumulate`"):
            train(dataclasses.replace(PLAIN, batch=64), RunOptions(shard_root, tmp_path / "run", device="cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, here)
