"""No room left: real limits, on the size of files and of a small file system."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from icmformer import weights
from icmformer.disk import disk_full, writing
from icmformer.errors import DiskFullError
from icmformer.models import build_network
from tests.conftest import ROOT
from tests.engines import MINIATURE
from tests.training.conftest import TINY_RUN
from tests.training.test_finetune import write_rings
from training import finetune
from training.data import build_coco_lvis
from training.loop.checkpoints import CheckpointWriter, read_checkpoint
from training.loop.trainer import Trainer
from training.train import main

LIMITED = """
import resource, runpy, sys
size, module = int(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
sys.argv = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def limited(size, module, *words, **options):
    """A command none of whose files may be larger than `size` bytes."""
    line = [sys.executable, "-c", LIMITED, str(size), module, *map(str, words)]
    return subprocess.run(line, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many kilobytes; skips where that is not allowed."""
    mounted = []

    def mount(kilobytes):
        place = tmp_path / "disk"
        place.mkdir()
        line = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        done = subprocess.run(line, capture_output=True, text=True, check=False) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else 'no mount'}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def train_words(shard_root, tmp_path, out, **changes):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**TINY_RUN, **changes}))
    return [config, "--data-root", shard_root, "--out", out, "--device", "cpu", "--threads", 1, "--workers", 0]


def told(done_or_error, place):
    """The one line that a command ends with."""
    lines = [line for line in done_or_error.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done_or_error
    assert len(lines) == 1, done_or_error
    assert str(place) in lines[0]
    assert "MB free" in lines[0]
    return lines[0]


def test_a_checkpoint_too_large_leaves_the_last_one_whole(shard_root, tmp_path):
    out = tmp_path / "run"
    words = train_words(shard_root, tmp_path, out)
    assert main([*map(str, words), "--time-budget", "0"]) == 0
    before = (out / "checkpoint.pt").read_bytes()
    done = limited(len(before) // 2, "training.train", *words, stdout=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "ulimit" in told(done.stderr, out)
    assert (out / "checkpoint.pt").read_bytes() == before
    assert not list(out.glob("*.tmp"))
    assert main(list(map(str, words))) == 0  # with room, it goes on


@pytest.mark.parametrize("pictures", [0, 2])
def test_a_run_on_a_full_disk_ends_with_a_line(shard_root, tmp_path, small_disk, capsys, pictures):
    """Its log, or the pictures of what it trains on."""
    out = small_disk(16 if not pictures else 4000) / "run"
    words = train_words(shard_root, tmp_path, out, samples=4000, pictures=pictures)
    assert main([*map(str, words), "--save-minutes", "100"]) == 2
    assert "the disk is full" in told(capsys.readouterr().err, out)
    assert not list(out.glob("*.tmp"))


def test_a_checkpoint_on_a_full_disk_leaves_the_last_one_whole(tiny_config, small_disk):
    place = small_disk(4000)
    trainer, path = Trainer(tiny_config, torch.device("cpu")), place / "run.pt"
    with CheckpointWriter() as writer:
        writer.save(trainer, path)
    before = path.read_bytes()
    (place / "other").write_bytes(bytes(shutil.disk_usage(place).free - len(before) // 2))
    with (
        pytest.raises(DiskFullError, match=r"the disk is full: cannot write to .* MB free"),
        CheckpointWriter() as writer,
    ):
        writer.save(trainer, path)
    assert path.read_bytes() == before
    assert read_checkpoint(path)["state"]["seen"] == 0
    assert sorted(p.name for p in place.iterdir()) == ["other", "run.pt"]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_weights_on_a_full_disk_leave_the_old_ones_or_nothing(small_disk, share):
    place = small_disk(4000)
    torch.manual_seed(0)
    state = build_network(MINIATURE).state_dict()
    weights.save(place / "old", MINIATURE, state, "old")
    digest = weights.load(place / "old").sha256
    size = (place / "old" / "model.safetensors").stat().st_size
    (place / "other").write_bytes(bytes(shutil.disk_usage(place).free - int(share * size)))
    for folder in ("old", "new"):
        with pytest.raises(DiskFullError, match="the disk is full"):
            weights.save(place / folder, MINIATURE, state, "other")
    assert weights.load(place / "old").sha256 == digest
    assert sorted(p.name for p in (place / "old").iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]
    assert not (place / "new").exists()


@pytest.mark.slow
def test_exports_and_conversions_say_where_there_is_no_room(miniature, shard_root, tmp_path):
    out = tmp_path / "run"
    assert main([*map(str, train_words(shard_root, tmp_path, out)), "--time-budget", "0"]) == 0
    done = limited(50_000, "training.export", out, "-o", tmp_path / "made", stdout=subprocess.DEVNULL)
    assert done.returncode == 2
    told(done.stderr, tmp_path / "made")
    done = limited(
        50_000, "icmformer", "weights", "convert", miniature, "-o", tmp_path / "made", stdout=subprocess.DEVNULL
    )
    assert done.returncode == 2
    told(done.stderr, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_printed_is_told(shard_root, tmp_path):
    words = train_words(shard_root, tmp_path, tmp_path / "run")
    with Path("/dev/full").open("w") as full:
        done = limited(10**9, "training.train", *words, "--dry-run", stdout=full)
    assert done.returncode == 2
    assert "error: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def stopped_while_writing(place, part):
    with writing(place, temporary=(part,)):
        part.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_only_want_of_room_is_taken_for_it(tmp_path):
    with pytest.raises(DiskFullError), writing(tmp_path), Path("/dev/full").open("w") as full:
        full.write("x")
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "none").read_text()
    part = tmp_path / "a.part"
    with pytest.raises(KeyboardInterrupt):
        stopped_while_writing(tmp_path, part)
    assert not part.exists()
    assert disk_full(ValueError("no space left on device")) is None
    copied = shutil.Error([("a", "b", str(OSError(28, os.strerror(28))))])
    assert isinstance(disk_full(copied), DiskFullError)
    assert disk_full(shutil.Error([("a", "b", str(OSError(13, os.strerror(13))))])) is None


@pytest.mark.slow
def test_an_evaluation_without_room_ends_with_a_line(miniature, shard_root, tmp_path):
    """And goes on with what it has once there is."""
    out = tmp_path / "measured"
    words = [
        "--weights",
        miniature,
        "--dataset",
        "shard",
        "--root",
        shard_root / "tiny.zip",
        "--limit",
        2,
        "--out",
        out,
    ]
    done = limited(300, "training.evaluate", *words, stdout=subprocess.DEVNULL)
    assert done.returncode == 2
    told(done.stderr, out)


@pytest.fixture
def finetune_words(miniature, tmp_path):
    """A fine-tuning of seconds, of six photos of some 80 kB."""
    rings = write_rings(tmp_path / "rings", 6)
    options = ["--held-out", "0.34", "--choosing", "0", "--batch", "4", "--samples", "4", "--objects", "1"]
    return rings, [*options, "--workers", "0", "--threads", "1", "--device", "cpu", "--weights", miniature]


ROOMS = {
    "for no settings": ("folder", 4),
    "for no photo": ("folder", 16),
    "for one photo": ("folder", 150),
    "to unpack nothing": ("zip", 16),
    "to unpack but not to prepare": ("zip", 640),
}


def cramped(finetune_words, place, form):
    """A fine-tuning's command line."""
    export, options = finetune_words
    if form == "zip":
        export = shutil.make_archive(str(export), "zip", export)
    return ["--annotations", str(export), "--out", str(place / "run"), *options]


@pytest.mark.parametrize("room", ROOMS)
def test_a_fine_tuning_without_room_for_its_photos_ends_with_a_line(finetune_words, small_disk, capsys, room):
    form, kilobytes = ROOMS[room]
    place = small_disk(kilobytes)
    words = cramped(finetune_words, place, form)
    assert finetune.main(words) == 2
    assert told(capsys.readouterr().err, place).startswith("error: the disk is full")
    assert not (place / "run" / "data").exists()


@pytest.mark.parametrize(
    "room", ["to unpack but not to prepare", *[pytest.param(r, marks=pytest.mark.slow) for r in list(ROOMS)[:4]]]
)
def test_a_fine_tuning_goes_on_when_there_is_room(finetune_words, small_disk, capsys, room):
    form, kilobytes = ROOMS[room]
    place = small_disk(kilobytes)
    words = cramped(finetune_words, place, form)
    assert finetune.main(words) == 2
    subprocess.run(["mount", "-o", "remount,size=40m", str(place)], check=True)
    assert finetune.main(words) == finetune.NOT_PROMOTED
    assert "4 photos with 8 objects to train on, 2 with 4 held out" in capsys.readouterr().out
    assert (place / "run" / "report.html").exists()


@pytest.mark.slow
def test_a_fine_tuning_whose_files_may_not_be_so_large_ends_with_a_line(finetune_words, tmp_path):
    export, options = finetune_words
    for form in ("folder", "zip"):
        words = cramped((export, options), tmp_path, form)
        done = limited(2000, "training.finetune", *words, stdout=subprocess.DEVNULL)
        assert done.returncode == 2
        assert "ulimit" in told(done.stderr, tmp_path / "run")


@pytest.mark.slow
def test_a_report_without_room_ends_with_a_line(finetune_words, small_disk, capsys):
    place, (export, options) = small_disk(40_000), finetune_words
    words = ["--annotations", str(export), "--out", str(place / "run"), *options]
    assert finetune.main(words) == finetune.NOT_PROMOTED
    report = place / "run" / "report.html"
    size = report.stat().st_size
    report.unlink()
    (place / "other").write_bytes(bytes(shutil.disk_usage(place).free - size // 2))
    capsys.readouterr()
    assert finetune.main(words) == 2
    told(capsys.readouterr().err, place)
    (place / "other").unlink()
    assert finetune.main(words) == finetune.NOT_PROMOTED
    assert report.stat().st_size == size


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_set_that_there_is_no_room_for_ends_with_a_line(shared, small_disk, capsys, jobs):
    """Whichever process finds out; with room, it goes on."""
    place, files = small_disk(32), shared / "data" / "fixtures" / "coco_lvis"
    words = ["--lvis", files / "lvis.json", "--images", files / "images", "--out", place / "set", "--jobs", jobs]
    assert build_coco_lvis.main(list(map(str, words))) == 2
    told(capsys.readouterr().err, place / "set")
    assert [path.name for path in (place / "set").iterdir()] == ["plan.json"]
    subprocess.run(["mount", "-o", "remount,size=40m", str(place)], check=True)
    assert build_coco_lvis.main(list(map(str, words))) == 0
    assert "26 photos" in capsys.readouterr().out
