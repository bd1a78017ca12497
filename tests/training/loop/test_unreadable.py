"""Trainings whose images are cut short, damaged, gone or of another size than their masks."""

import json
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from icmformer.errors import ConfigError, UnreadableImageError
from tests.conftest import ROOT
from tests.training.conftest import TINY_RUN
from tests.training.loop.test_samples import write_pair
from training.data.shards import Shard
from training.data.sources import open_images
from training.loop.config import parse_config
from training.loop.plan import look_into
from training.loop.samples import SampleSet
from training.loop.trainer import Trainer, batches
from training.loop.unreadable import HANDFUL, Unreadable, most_unreadable
from training.train import main


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.fixture
def root(tmp_path):
    """A folder of twenty images of two shapes, and what breaks some of them."""
    rng = np.random.default_rng(0)
    for n in range(20):
        labels = np.zeros((120, 160), np.uint8)
        cv2.circle(labels, (50, 60), 30, 7, -1)
        cv2.rectangle(labels, (110, 20), (150, 100), 9, -1)
        write_pair(
            tmp_path / "set",
            f"p{n:02}",
            (rng.random((120, 160, 3)) * 60 + 20 * labels[..., None]).astype(np.uint8),
            labels,
        )
    return tmp_path


def images_of(root):
    return root / "set" / "images", root / "set" / "masks"


def break_some(root):
    """Four images, each in its own way; their names."""
    images, masks = images_of(root)
    cut(images / "p01.png")
    (images / "p05.png").unlink()
    Image.fromarray(np.ones((20, 20), np.uint8)).save(masks / "p09.png")
    (images / "p13.png").write_bytes(b"no image at all")
    return {f"set: {name}" for name in ("p01", "p05", "p09", "p13")}


CONFIG = {**TINY_RUN, "batch": 4, "samples": 24, "data": {"shards": ["set"]}}


def names(batch):
    return {error.image for error in batch.passed_over}


@pytest.mark.parametrize("recipe", ["own", "published"])
def test_samples_of_readable_images_stay_and_others_are_drawn_for_the_rest(root, recipe):
    config = parse_config(
        {**CONFIG, "recipe": recipe, **({"augment": {"min_area": 50}} if recipe == "published" else {})}
    )
    images = open_images(root, ["set"])
    before = [SampleSet(images, config)[n] for n in range(80)]
    broken = break_some(root)
    samples = SampleSet(images, config)
    after, again = ([samples[n] for n in range(80)] for _ in range(2))
    changed = 0
    for old, new, twice in zip(before, after, again, strict=True):
        assert np.array_equal(new.image, twice.image)
        assert [e.image for e in new.passed_over] == [e.image for e in twice.passed_over]
        assert np.array_equal(old.image, new.image) == (not new.passed_over)
        changed += bool(new.passed_over)
    assert 4 <= changed <= 40  # 4 of 20 images
    assert {e.image for s in after for e in s.passed_over} == broken


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_bring_the_same_batches(root, workers):
    images = open_images(root, ["set"])
    broken = break_some(root)
    trainer = Trainer(parse_config(CONFIG), torch.device("cpu"))
    samples = SampleSet(images, trainer.config)
    expected, got = (list(batches(samples, trainer.stage, 0, count)) for count in (0, workers))
    for one, other in zip(expected, got, strict=True):
        assert torch.equal(one.image, other.image)
        assert names(one) == names(other)
    assert set().union(*map(names, got)) <= broken
    assert len(set().union(*map(names, got))) >= 2


@pytest.fixture
def started(root, tmp_path):
    """Runs the command, and gives what `capsys` saw with its status."""

    def run(*options, raw=CONFIG, name="run"):
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(raw))
        words = ["--data-root", str(root), "--device", "cpu", "--threads", "1", "--workers", "0", *options]
        return main([str(config), *(["--out", str(tmp_path / name)] if "--dry-run" not in words else []), *words])

    return run


def test_a_run_names_them_once_counts_them_and_keeps_the_list(root, started, tmp_path, capsys):
    images, masks = images_of(root)
    (masks / "p17.png").write_bytes(b"no mask")
    cut(images / "p01.png")
    cut(images / "p02.png")
    assert started("--time-budget", "0") == 0
    assert started() == 0
    told = capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "run" / "unreadable.jsonl").read_text().splitlines()]
    found = {row["image"] for row in rows}
    assert {"set: p17.png"} < found <= {"set: p17.png", "set: p01", "set: p02"}
    assert len(rows) == len(found)
    assert all("p01.png" in row["why"] for row in rows if row["image"] == "set: p01")
    lines = told.err.splitlines()
    assert sum("passed over: set: p17.png" in line for line in lines) == 2  # once in each part
    assert all(sum(f"passed over: {name}:" in line for line in lines) == 1 for name in found - {"set: p17.png"})
    assert told.out.splitlines()[-1] == (
        f"{len(found)} images could not be read and were passed over: {tmp_path / 'run' / 'unreadable.jsonl'}"
    )


def test_the_limit_ends_a_run_saved_and_it_goes_on_once_mended(root, started, tmp_path, capsys):
    """Its disk goes away in the middle: the weights are those of a run that nothing befell."""
    raw = {**CONFIG, "samples": 40}
    assert started(raw=raw, name="whole") == 0
    kept = {path: path.read_bytes() for path in images_of(root)[0].iterdir()}
    steps = Trainer.train_step
    done = []

    def then_away(self, *args):
        result = steps(self, *args)
        done.append(self.seen)
        if len(done) == 3:
            for path in kept:
                path.unlink()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", then_away)
        assert started("--image-memory", "0", raw=raw) == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert f"at most {HANDFUL} may be" in told.err or "cannot be read and the others show" in told.err
    assert "saved after 12 samples; mend it, and run the same command again" in told.err
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]["seen"] == 12
    for path, data in kept.items():
        path.write_bytes(data)
    assert started(raw=raw) == 0
    assert "going on after 12 samples" in capsys.readouterr().out
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["state"]["network"]
        for name in ("run", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_two_processes_pass_over_what_one_does(root, tmp_path):
    """Each meets images that the other does not; the list has all, and the losses are one process's."""
    break_some(root)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "dropout": 0.0}))
    command = [str(config), "--data-root", str(root), "--device", "cpu", "--threads", "1", "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "training.train",
    ]
    done = subprocess.run(
        [*line, *command, "--out", str(tmp_path / "two")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed, losses = [], []
    for name in ("one", "two"):
        rows = (tmp_path / name / "unreadable.jsonl").read_text().splitlines()
        listed.append(sorted(json.loads(row)["image"] for row in rows))
        losses.append([json.loads(row)["loss"] for row in (tmp_path / name / "log.jsonl").read_text().splitlines()])
    assert listed[0] == listed[1]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert done.stderr.count("cannot be read, passed over") == len(listed[1])


def test_at_most_a_share_but_a_handful_anyway(tmp_path):
    assert (most_unreadable(10, 0.02), most_unreadable(1000, 0.02), most_unreadable(10, 0)) == (HANDFUL, 20, 0)
    found = Unreadable(tmp_path, 10, 0.02)
    found.add([UnreadableImageError(f"set: {n}", "cut") for n in range(HANDFUL)] * 2, 0)
    assert found.too_many is None
    found.add([UnreadableImageError("set: more", "cut")], 8)
    assert "6 of 10 images cannot be read, and at most 5 may be" in str(found.too_many)
    later = Unreadable(tmp_path, 10, 0.02)  # what was found before may be mended
    assert later.too_many is None
    assert "6 images could not be read" in str(later)


def test_bad_masks_and_other_files_of_a_folder_are_passed_over(root):
    images, masks = images_of(root)
    (images / "._p00.png").write_bytes(b"\0\5\x16\7")
    (masks / "._p00.png").write_bytes(b"\0\5\x16\7")
    (images / "__MACOSX").mkdir()
    (images / "notes.txt").write_text("notes")
    (images / "p30.psd").write_bytes(b"8BPS")
    (masks / "p03.png").write_bytes(b"no mask")
    cut(masks / "p04.png")
    Image.new("RGB", (160, 120), "red").save(masks / "p06.png")
    (masks / "p07.png").unlink()
    with Image.open(images / "p08.png") as picture:
        picture.save(images / "p08.gif")
        expected = np.asarray(picture)
    (images / "p08.png").unlink()
    found = open_images(root, ["set"])
    assert {e.image for e in found.unreadable} == {f"set: p{n:02}.png" for n in (3, 4, 6, 7)}
    assert [r.key for r in found.records] == [f"p{n:02}" for n in range(20) if n not in (3, 4, 6, 7)]
    assert found.remarks == ["set: 2 passed over that are no images: images/notes.txt, images/p30.psd"]
    pixels, labels = found.load([r.key for r in found.records].index("p08"))  # a GIF is read as any other
    assert np.abs(pixels.astype(int) - expected).mean() < 30
    assert set(np.unique(labels)) == {0, 1, 2}


@pytest.mark.parametrize("damage", ["truncated", "missing", "crc", "size", "text", "png"])
def test_what_libraries_raise_names_the_image(damage, tmp_path):
    """A shard's images: `zipfile`, `zlib`, OpenCV and NumPy each have errors of their own."""
    labels = np.ones((40, 50), np.uint8)
    image = cv2.imencode(".webp", np.full((40, 50, 3), 90, np.uint8))[1].tobytes()
    mask = cv2.imencode(".png", labels)[1].tobytes()
    files = {"a.webp": image, "a.png": mask}
    files |= {
        "truncated": {"a.webp": image[: len(image) // 2]},
        "missing": {"a.png": None},
        "size": {"a.png": cv2.imencode(".png", labels[:9])[1].tobytes()},
        "text": {"a.webp": b""},
        "png": {"a.png": mask[:-20]},
    }.get(damage, {})
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("index.jsonl", json.dumps({"key": "a", "set": "s", "labels": [1]}))
        for name, data in files.items():
            if data is not None:
                archive.writestr(name, data)
    if damage == "crc":
        path.write_bytes(path.read_bytes().replace(mask, mask[:-4] + b"abcd"))
    with pytest.raises(ConfigError, match=r"the image a of .*set\.zip"):
        Shard(path, include_held_out=True).load(0)
    with pytest.raises(UnreadableImageError, match=r"set\.zip: a: "):
        open_images(tmp_path, ["set.zip"]).load(0)


def test_no_memory_is_no_fault_of_an_image(root, monkeypatch):
    images = open_images(root, ["set"])
    monkeypatch.setattr("training.data.folders.read_image", lambda _: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        images.load(0)


def test_a_dry_run_opens_some_and_tells_which_cannot_be_read(root, started, capsys):
    for n in range(2):
        cut(images_of(root)[0] / f"p{n:02}.png")
    assert started("--dry-run") == 0
    told = capsys.readouterr().out
    assert "opened    20 images, spread over all sources; 2 cannot be read:" in told
    assert told.count("set: p00: ") == told.count("set: p01: ") == 1
    for n in range(HANDFUL + 1):
        cut(images_of(root)[0] / f"p{n:02}.png")
    assert started("--dry-run") == 2
    assert "6 of 20 images cannot be read, and at most 5 may be" in capsys.readouterr().err


def test_images_to_open_are_spread_over_the_sources(root, shard_root):
    (root / "tiny.zip").symlink_to(shard_root / "tiny.zip")
    images = open_images(root, ["set", "tiny.zip"])  # 20 and 5
    assert list(images.spread(6)) == [0, 6, 13, 20, 21, 23]
    assert list(images.spread(12)) == [0, 2, 5, 8, 11, 14, 17, *range(20, 25)]
    assert list(images.spread(99)) == list(range(25))
    assert look_into(images, 50, -1) == (0, [])  # no longer than so


def test_a_validation_passes_over_what_it_cannot_read(root, started, shard_root, tmp_path, capsys):
    source = zipfile.ZipFile(shard_root / "tiny.zip")
    with zipfile.ZipFile(root / "val.zip", "w") as damaged:
        for name in source.namelist():
            damaged.writestr(name, b"no image" if name == "photo2.webp" else source.read(name))
    raw = {**CONFIG, "samples": 8, "validation": {"every": 4, "shard": "val.zip", "limit": 4}}
    assert started(raw=raw) == 0
    told = capsys.readouterr()
    assert told.err.count("passed over: val.zip: coco_photo2") == 1
    measured = [
        r for r in map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines()) if "validation" in r
    ]
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"optim": {"schedule": "step", "steps": [0.5, 1.5]}}, "optim.steps"),
        ({"optim": {"schedule": "step", "steps": [0.9, 0.5]}}, "optim.steps"),
        ({"augment": {"resize": [1.4, 0.7]}}, "augment.resize"),
        ({"augment": {"resize": [0, 1]}}, "augment.resize"),
        ({"augment": {"contrast": [0.4, -0.1]}}, "augment.contrast"),
        ({"augment": {"zoom_expansion": [2.0, float("inf")]}}, "augment.zoom_expansion"),
        ({"augment": {"whole": 1.5}}, "augment.whole"),
        ({"augment": {"tilt": -3.0}}, "augment.tilt"),
        ({"points": {"erode": 2.0}}, "points.edge"),
        ({"data": {"unreadable": 1.5}}, "data.unreadable"),
    ],
)
def test_ranges_that_cannot_be_are_refused(section, text):
    with pytest.raises(ConfigError, match=text):
        parse_config(section)
