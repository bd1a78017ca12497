"""A run stopped and continued is the run that was not."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from icmformer import weights
from tests.conftest import ROOT
from tests.training.conftest import TINY_RUN
from training.data.shards import Shards
from training.export import main as export
from training.loop import Trainer, batches
from training.optim import learning_rate, make_optimizer
from training.samples import SampleSet


def trained(config, shard_root, steps, state=None):
    trainer = Trainer(config, torch.device("cpu"))
    if state is not None:
        trainer.load_state_dict(state)
    samples = SampleSet(Shards([shard_root / "tiny.zip"]), config)
    for batch, _ in zip(batches(samples, config, trainer.seen, workers=0), range(steps), strict=False):
        trainer.train_step(batch)
    return trainer


def test_resuming_is_exact(tiny_config, shard_root):
    whole = trained(tiny_config, shard_root, 5)
    half = trained(tiny_config, shard_root, 2)
    resumed = trained(tiny_config, shard_root, 3, half.state_dict())
    assert resumed.seen == whole.seen == 10
    for key in ("network", "average"):
        for name, tensor in whole.state_dict()[key].items():
            assert torch.equal(resumed.state_dict()[key][name], tensor), name


def test_the_average_follows_the_weights(tiny_config, shard_root):
    trainer = trained(tiny_config, shard_root, 4)
    name = "neck.down_16.0.weight"
    start = Trainer(tiny_config, torch.device("cpu")).network.state_dict()[name]
    now, average = trainer.network.state_dict()[name], trainer.average.network.state_dict()[name]
    assert not torch.equal(now, average)
    assert (average - start).norm() < (now - start).norm()


def test_every_parameter_is_optimised(tiny_config):
    trainer = Trainer(tiny_config, torch.device("cpu"))
    grouped = [p for group in make_optimizer(trainer.network, tiny_config.optim).param_groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in trainer.network.parameters()}
    assert len(grouped) == len({id(p) for p in grouped})


def test_schedules():
    from training.config import OptimConfig

    warm = OptimConfig(lr=1.0, warmup_samples=100)
    assert learning_rate(warm, 0, 1000) < 0.02
    assert learning_rate(warm, 100, 1000) == 1.0
    step = OptimConfig(lr=1.0, schedule="step", steps=(0.5, 0.9))
    assert [learning_rate(step, n, 100) for n in (49, 50, 89, 90)] == pytest.approx([1, 0.1, 0.1, 0.01])
    cosine = OptimConfig(lr=1.0, schedule="cosine")
    assert learning_rate(cosine, 50, 100) == pytest.approx(0.5)
    assert learning_rate(cosine, 100, 100) == pytest.approx(0, abs=1e-9)


def test_the_command_trains_goes_on_and_exports(shard_root, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY_RUN))
    command = [
        sys.executable,
        "-m",
        "training.train",
        str(config),
        "--data-root",
        str(shard_root),
        "--out",
        str(tmp_path / "run"),
    ]
    command += ["--workers", "0", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "saved after 12 samples" in done.stdout
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["seen"] for row in log] == [2, 4, 6, 8, 10, 12]
    assert "going on after 12" in subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert export([str(tmp_path / "run"), "-o", str(tmp_path / "w")]) == 0
    assert weights.load(tmp_path / "w").about["samples"] == 12


def test_a_bad_config_is_one_line(tmp_path):
    (tmp_path / "c.yaml").write_text("sise: 3")
    command = [
        sys.executable,
        "-m",
        "training.train",
        str(tmp_path / "c.yaml"),
        "--data-root",
        ".",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
