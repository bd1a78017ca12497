"""Training with `--compile`: the steps of a network that is not compiled. Compiling takes nearly all of the time."""

import dataclasses

import pytest
import torch

from icmformer.inference.backends.torch import Precision
from tests.gpu.test_training import PLAIN, batch
from training.loop.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(150)]


def test_compiled_steps_are_those_of_the_network(device, shard_root):
    """In fp32, which the compiler adds up in another order: 1e-7 of the largest gradient on a CPU.

    A graph of the training passes that is wrong shows in the gradients, of which the norm goes far from where it was.
    """
    config = dataclasses.replace(PLAIN, max_rounds=3)
    told = {}
    with Precision().applied(device):
        for compiled in (False, True):
            trainer = Trainer(config, device, compiled=compiled)
            seen = batch(trainer, shard_root, 0)
            told[compiled] = [trainer.train_step(seen).scalars for _ in range(3)]
    for plain, compiled in zip(told[False], told[True], strict=True):
        assert compiled["loss"] == pytest.approx(plain["loss"], abs=1e-4)
        assert compiled["norm"] == pytest.approx(plain["norm"], rel=1e-2)
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())
