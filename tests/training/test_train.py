"""The training command, as a user runs it: on, off, killed, on two processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from icmformer import weights
from icmformer.errors import ConfigError
from tests.commands import run_module
from tests.conftest import ROOT
from tests.training.conftest import TINY_RUN
from tests.training.loop.test_samples import write_pair
from training.evaluate import trace
from training.evaluation.benchmarks import load_benchmark
from training.evaluation.noc import click_count
from training.export import main as export
from training.loop.processes import Processes
from training.loop.run import RunOptions, RunResult, train
from training.loop.validation import Validation

MODULE = [sys.executable, "-m", "training.train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def command(shard_root, tmp_path):
    """Makes the command line of a run and its folder; the folder's name tells runs apart."""

    def make(name, raw=TINY_RUN, *options, start=MODULE):
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(raw))
        line = [*start, str(config), "--data-root", str(shard_root), "--out", str(tmp_path / name)]
        return [*line, "--workers", "0", "--threads", "1", "--device", "cpu", *options], tmp_path / name

    return make


def run_here(line):
    """The command of a line, in this process."""
    assert line[:3] == MODULE
    return run_module(*line[2:])


def log_of(out, key="loss"):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["seen"]: row[key] for row in rows if key in row}


def losses_of(out):
    """Sample and loss of every line that is a step's: a line too many is seen here."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(row["seen"], row["loss"]) for row in rows]


def weights_of(out, key="network"):
    return torch.load(out / "checkpoint.pt", weights_only=True)["state"][key]


def test_the_command_trains_goes_on_and_exports(command, tmp_path):
    line, out = command("run")
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "starts from random values; 5 images" in done.stdout
    assert "saved after 12 samples" in done.stdout
    assert list(log_of(out)) == [2, 4, 6, 8, 10, 12]
    assert "going on after 12" in run_here(line).stdout
    assert export([str(out), "-o", str(tmp_path / "w")]) == 0
    made = weights.load(tmp_path / "w")
    assert made.about["samples"] == 12
    line, out = command("second", TINY_RUN, "--start", str(tmp_path / "w"))
    assert "0 fresh" in run_here(line).stdout


def test_called_as_a_function_a_run_says_how_it_ended_and_goes_on(tiny_config, shard_root, tmp_path):
    options = RunOptions(shard_root, tmp_path / "run", device="cpu", workers=0)
    assert train(tiny_config, dataclasses.replace(options, time_budget=0)) == RunResult(finished=False, signalled=False)
    assert train(tiny_config, options) == RunResult(finished=True, signalled=False)
    assert weights_of(tmp_path / "run")
    with pytest.raises(ConfigError, match="--threads at 1"):
        dataclasses.replace(options, threads=0)


def test_a_run_measures_and_shows_itself(command, shard_root):
    raw = {**TINY_RUN, "validation": {"every": 6, "shard": "tiny.zip", "limit": 2}, "pictures": 8}
    line, out = command("watched", raw)
    done = run_here(line)
    assert done.returncode == 0, done.stderr
    measured = log_of(out, "validation")
    assert list(measured) == [6, 12]
    board = EventAccumulator(str(out / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert board.Scalars("train/loss")[0].value == pytest.approx(log_of(out)[2], rel=1e-4)
    assert [e.step for e in board.Scalars("validation/noc90")] == [6, 12]
    pictures = board.Images("target, prediction")
    assert [p.step for p in pictures] == [2, 10]
    assert (pictures[0].height, pictures[0].width) == (2 * 224, 2 * 224)
    best = torch.load(out / "best.pt", weights_only=True)
    assert best["best"] == min(v["noc90"] for v in measured.values())
    # the figures are those of the evaluator
    network = weights.load(shard_net(best, out)).build()
    rows = []
    for item in load_benchmark("shard", shard_root / "tiny.zip", 2):
        image, truth = item.load()
        rows.append(trace(network, image.pixels, truth, {"target_size": (224, 224)}, flip=False).ious)
    figures = Validation(shard_root / "tiny.zip", 2)(network, 224, Processes())
    assert figures["noc90"] == pytest.approx(click_count(rows, 0.9, 20).noc)
    assert figures["miou1"] == pytest.approx(np.mean([r[0] for r in rows]))
    assert figures == pytest.approx(measured[best["state"]["seen"]])


def test_speed_and_waiting_are_logged_and_steps_can_be_profiled(command):
    line, out = command("profiled", {**TINY_RUN, "samples": 16}, "--profile-steps", "2")
    done = run_here(line)
    assert done.returncode == 0, done.stderr
    for row in map(json.loads, (out / "log.jsonl").read_text().splitlines()):
        assert row["samples_per_second"] > 0
        assert 0 <= row["data_wait"] <= 1
    assert "aten::" in (out / "profile.txt").read_text()
    assert json.loads((out / "profile.json").read_text())["traceEvents"]
    assert "profile of 2 steps" in done.stdout


def shard_net(best, out):
    torch.save(best, out / "copy.pt")
    assert export([str(out / "copy.pt"), "-o", str(out / "w"), "--store", "fp32"]) == 0
    return out / "w"


KILLED = """
import os, signal, sys
from training.loop.monitor import Monitor
step, left = Monitor.step, {left}
def counted(*args):
    global left
    step(*args)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
Monitor.step = counted
from training.train import main
main(sys.argv[1:])
"""
"""The command, killed after so many steps of its own."""


def test_kill_9_and_resume_gives_the_weights_of_a_run_that_was_not_killed(command, tmp_path):
    """Killed in its first steps, and again when it went on."""
    raw = {**TINY_RUN, "samples": 20}
    line, whole = command("whole", raw, "--save-minutes", "0")
    assert run_here(line).returncode == 0
    line, killed = command("killed", raw, "--save-minutes", "0")
    told = []
    for left in (3, 4):
        (tmp_path / "killed.py").write_text(KILLED.format(left=left))
        line_of_it = [sys.executable, str(tmp_path / "killed.py"), *line[len(MODULE) :]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(line_of_it, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL
        told.append(done.stdout)
    done = run_here(line)
    assert "starts from" in told[0]
    assert "going on after" in told[1]
    assert "going on after" in done.stdout
    for key in ("network", "average"):
        ours, theirs = weights_of(killed, key), weights_of(whole, key)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert losses_of(killed) == losses_of(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_a_run_saves_and_says_so(command, number):
    line, out = command("stopped", {**TINY_RUN, "samples": 4000}, "--workers", "1")
    process = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (out / "log.jsonl").exists() or not log_of(out):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "saved after" in told
    assert "of 4,000 samples; run the same command again to continue" in told
    assert "Traceback" not in errors
    assert torch.load(out / "checkpoint.pt", weights_only=True)["state"]["seen"] == max(log_of(out))


def test_the_learning_rate_can_end_with_the_time(command):
    """Of 400,000 samples hardly any are seen, and yet the cosine comes to its end."""
    optim = {"lr": 0.001, "warmup_samples": 2, "schedule": "cosine"}
    line, out = command(
        "annealed", {**TINY_RUN, "samples": 400_000, "optim": optim}, "--time-budget", "0.05", "--anneal"
    )
    done = run_here(line)
    assert done.returncode == 0, done.stderr
    rates = [json.loads(row)["lr"] for row in (out / "log.jsonl").read_text().splitlines()]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < 0.3 * max(rates)
    for wrong, told in (([], "a schedule that falls"), (["--time-budget", "0"], "needs --time-budget")):
        line, _ = command("constant", {**TINY_RUN, "samples": 4000}, *(wrong or ["--time-budget", "1"]), "--anneal")
        done = run_here(line)
        assert done.returncode == 2
        assert told in done.stderr


def test_a_time_budget_ends_a_run_that_can_go_on(command):
    line, _ = command("short", {**TINY_RUN, "samples": 4000}, "--time-budget", "0.002")
    done = run_here(line)
    assert done.returncode == 0, done.stderr
    assert "saved after" in done.stdout
    assert "going on after" in run_here(line).stdout


PROBE = """
import os, pathlib, training.train
assert training.train.main() == 0
threads = {t.read_text().strip() for t in pathlib.Path("/proc/self/task").glob("*/comm")}
pathlib.Path(__file__).with_name(f"threads {os.environ['RANK']}").write_text(" ".join(sorted(threads)))
"""


@pytest.mark.parametrize("extras", [False, True])
def test_two_processes_train_as_one_with_the_doubled_batch(command, extras, tmp_path):
    """With `extras` started as documented; without, by a script that also tells what is left of their group's threads.

    One that releases a tensor at exit would end the run with SIGABRT.
    """
    (tmp_path / "probe.py").write_text(PROBE)
    network = {**TINY_RUN["network"], "published_extras": extras}
    raw = {**TINY_RUN, "network": network, "batch": 4, "samples": 24, "dropout": 0.0}
    line, alone = command("alone", raw)
    assert run_here(line).returncode == 0
    line, together = command(
        "together", raw, start=[*TORCHRUN, *(["-m", "training.train"] if extras else [str(tmp_path / "probe.py")])]
    )
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    one, two = log_of(alone), log_of(together)
    assert list(one) == list(two) == [4, 8, 12, 16, 20, 24]
    assert max(abs(one[k] - two[k]) for k in one) < 1e-4
    assert one[4] != one[24]
    told = [path.read_text() for path in tmp_path.glob("threads *")]
    assert len(told) == (0 if extras else 2)
    assert all("python" in threads and "gloo" not in threads for threads in told), told


@pytest.mark.parametrize(
    ("raw", "options", "text"),
    [
        ({"sise": 3}, (), "unknown keys sise"),
        ({**TINY_RUN, "data": {"shards": ["none.zip"]}}, (), "there is no shard"),
        (TINY_RUN, ("--start", "nothing-of-that-name"), "nothing-of-that-name"),
        (TINY_RUN, ("--workers", "-1"), "--workers starts at 0"),
        ({**TINY_RUN, "validation": {"every": 4}}, (), "there is no shard"),
        ({**TINY_RUN, "data": {"shards": ["sizes"]}}, ("--workers", "1"), "different sizes"),
        ({**TINY_RUN, "data": {"shards": ["tiny.zip"], "set_weights": {"cocoa": 2}}}, (), "no image is of: cocoa"),
        ({**TINY_RUN, "optim": {"lr_factors": {"backbone.": 0}}}, (), "frozen at random values: give --start"),
        (TINY_RUN, ("--start", ""), "error: "),
        ({**TINY_RUN, "stages": [{"until": 6}, {"size": 225}]}, (), "225"),
    ],
)
def test_mistakes_are_told_without_a_traceback(command, shard_root, raw, options, text):
    write_pair(shard_root / "sizes", "a", np.zeros((20, 30, 3), np.uint8), np.ones((20, 20), np.uint8))
    line, _ = command("wrong", raw, *options)
    done = run_here(line)
    assert done.returncode == 2
    assert any(line.startswith("error: ") for line in done.stderr.splitlines())
    assert text in done.stderr
    assert "Traceback" not in done.stderr
