import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from icmformer import weights
from icmformer.errors import ConfigError
from tests.conftest import ROOT
from tests.training.conftest import TINY_RUN
from training.gpu_visit import main
from training.tools.pieces import join, missing, split


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_RUN))
    return path


def told(out):
    summary = json.loads((out / "summary.json").read_text())
    return {command["part"]: command["ended"] for command in summary["commands"]}


def test_files_come_together_again_from_pieces_that_arrive_apart(tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for name, size in (("large.zip", 2500), ("even.zip", 2000), ("empty", 0)):
        files.append(tmp_path / name)
        files[-1].write_bytes(rng.bytes(size))
    pieces = split(files, tmp_path / "pieces", 1000)
    assert max(piece.stat().st_size for piece in pieces) <= 1000
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "pieces" / "pieces.json").rename(there / "pieces.json")
    arrived = []
    for number, piece in enumerate(pieces, 1):
        piece.rename(there / piece.name)
        arrived = join(there, tmp_path / "data")
        assert missing(there, arrived) == [later.name for later in pieces[number:]]
    assert [file.name for file in arrived] == ["large.zip", "even.zip", "empty"]
    for ours, theirs in zip(arrived, files, strict=True):
        assert hashlib.sha256(ours.read_bytes()).digest() == hashlib.sha256(theirs.read_bytes()).digest()
    for piece in there.glob("*.zip.*"):
        piece.unlink()
    assert join(there, tmp_path / "data") == arrived  # what is whole already needs no pieces


def test_pieces_are_made_and_put_together_by_command(tmp_path, capsys):
    file = tmp_path / "shard.zip"
    file.write_bytes(bytes(3 * 2**20))
    assert main(["split", str(file), "--to", str(tmp_path / "pieces"), "--mib", "2"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["2.0", "1.0"]
    assert main(["join", str(tmp_path / "pieces"), "--to", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "data" / "shard.zip")
    assert (tmp_path / "data" / "shard.zip").read_bytes() == file.read_bytes()
    (tmp_path / "other.zip").write_bytes(b"later")
    assert main(["split", str(tmp_path / "other.zip"), "--to", str(tmp_path / "pieces")]) == 0
    (tmp_path / "data" / "shard.zip").unlink()
    (tmp_path / "pieces" / "shard.zip.01").unlink()
    assert main(["join", str(tmp_path / "pieces"), "--to", str(tmp_path / "data")]) == 0
    assert "still missing: shard.zip.01" in capsys.readouterr().out
    (tmp_path / "pieces" / "pieces.json").write_text('{"shard.zip": {}}')
    assert main(["join", str(tmp_path / "pieces"), "--to", str(tmp_path / "data")]) == 2
    assert main(["join", str(tmp_path), "--to", str(tmp_path / "data")]) == 2
    assert "pieces.json" in capsys.readouterr().err


def test_a_piece_that_changed_on_its_way_is_told(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(3000))
    pieces = split([file], tmp_path / "pieces", 1000)
    assert join(tmp_path / "pieces", tmp_path / "data")
    pieces[1].write_bytes(b"\1" * 1000)
    (tmp_path / "data" / "file").unlink()
    with pytest.raises(ConfigError, match="file is not what was split"):
        join(tmp_path / "pieces", tmp_path / "data")
    assert not (tmp_path / "data" / "file").exists()
    with pytest.raises(ConfigError, match=r"no readable pieces\.json"):
        join(tmp_path, tmp_path / "data")
    with pytest.raises(ConfigError, match="differ in name"):
        split([file, file], tmp_path / "twice", 1000)


def test_a_part_that_fails_or_hangs_does_not_keep_the_next_from_running(tmp_path, config, shard_root, capfd):
    out = tmp_path / "out"
    config.write_text(yaml.safe_dump({**TINY_RUN, "samples": 1, "optim": {}}))
    words = ["run", "--config", str(config), "--data-root", str(shard_root), "--out", str(out), "--device", "cpu"]
    words += ["--run", str(tmp_path / "run"), "--minutes", "2", "--parts", "tests", "feed", "--budget", "tests=0.2"]
    assert main(words) == 1
    assert told(out) == {"tests": "stopped: its time was up", "feed": "failed (2)"}
    assert "fewer samples than one batch" in capfd.readouterr().out
    with zipfile.ZipFile(out / "logs.zip") as logs:
        assert b"fewer samples than one batch" in logs.read("feed.txt")


def test_a_visit_that_is_ended_leaves_nothing_running(tmp_path, config):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "training.gpu_visit", "run", "--config", str(config), "--data-root", str(tmp_path)]
    words += ["--out", str(out), "--run", str(tmp_path / "run"), "--device", "cpu", "--parts", "bench"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started = next(line for line in process.stdout if line.startswith("== bench"))
    assert "training.bench" in started
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if str(tmp_path).encode() in command]
    assert told(out) == {"bench": "stopped: the visit was ended"}


def test_mistakes_are_told_before_anything_runs(tmp_path, config, shard_root, capsys):
    words = ["run", "--data-root", str(tmp_path), "--out", str(tmp_path / "out"), "--config"]
    assert main([*words, str(tmp_path / "none.yaml")]) == 2
    assert "cannot read the config" in capsys.readouterr().err
    assert main([*words, str(config), "--device", "cpu"]) == 2
    assert "there is no shard" in capsys.readouterr().err
    (tmp_path / "tiny.zip").symlink_to(shard_root / "tiny.zip")
    assert main([*words, str(config), "--device", "cpu", "--start", "nope"]) == 2
    assert "nope" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, str(config), "--device", "cuda"]) == 2 or torch.cuda.is_available()
    assert "device 'cuda' is not there" in capsys.readouterr().err or torch.cuda.is_available()
    for wrong in ("sleep=3", "train", "feed=-1", "feed=x"):
        with pytest.raises(SystemExit):
            main([*words, str(config), "--budget", wrong])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rehearsal_gives_what_a_visit_gives(tmp_path, config, shard_root):
    """But for the tests, which would start this one's like, and the end of the click times.

    The weights that come back are the run's average.
    """
    out = tmp_path / "out"
    endless = {**TINY_RUN, "samples": 10**6, "optim": {"lr": 0.001, "warmup_samples": 4, "schedule": "cosine"}}
    config.write_text(yaml.safe_dump(endless))
    words = ["run", "--config", str(config), "--data-root", str(shard_root), "--out", str(out), "--device", "cpu"]
    words += ["--run", str(tmp_path / "run"), "--minutes", "2", "--parts", "feed", "bench", "train", "--workers", "1"]
    assert main([*words, "--budget", "feed=30", "bench=20"]) == 0
    assert told(out)["feed"] == told(out)["train"] == "passed"
    with zipfile.ZipFile(out / "logs.zip") as logs:
        assert b"samples a second at 224 x 224" in logs.read("feed.txt")
        assert "bench_starter.txt" in logs.namelist()
    timed = [c for c in json.loads((out / "summary.json").read_text())["commands"] if c["part"] == "bench"]
    assert len(timed) == 4
    assert not [c for c in timed if c["ended"].startswith("failed")]  # a minute each on a CPU: their time is up
    (archive,) = join(out, tmp_path / "back")
    with zipfile.ZipFile(archive) as average:
        average.extractall(tmp_path / "average")
    loaded = weights.load(tmp_path / "average")
    rows = [json.loads(line) for line in (tmp_path / "average" / "log.jsonl").read_text().splitlines()]
    assert loaded.about["samples"] == rows[-1]["seen"] > 100
    assert rows[-1]["lr"] < 0.01 * max(row["lr"] for row in rows)  # ended by its own time budget, and annealed
