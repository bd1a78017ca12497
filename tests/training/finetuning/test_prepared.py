"""The data of a run: made once, again where the export was mended, and never at the price of what was made before."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from icmformer.errors import ConfigError
from training.finetuning.prepared import prepared
from training.finetuning.settings import FinetuneSettings


def write_export(folder, count=6, seed=0, value=1):
    """Photos of noise with one object each."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        labels = np.zeros((24, 32), np.uint8)
        labels[4 : 9 + value, 5:20] = 1
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / "images" / f"p{number}.png")
        Image.fromarray(labels).save(folder / "masks" / f"p{number}.png")
    return folder


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as file:
        for entry in sorted(folder.rglob("*.png")):
            file.write(entry, entry.relative_to(folder))
    return path


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


MADE = ("run/checkpoint.pt", "candidate/config.json", "before/objects.jsonl", "after/objects.jsonl")
MADE += ("choosing-48/results.json", "gate.json", "report.html", "config.yaml", "settings.json")


def train_for_weeks(out, text):
    """Everything that a run leaves, as short texts."""
    for name in MADE:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"{text}: {name}")


def test_the_photos_of_a_zip_are_on_the_disk_once(tmp_path):
    export = zipped(write_export(tmp_path / "export"), tmp_path / "export.zip")
    out = tmp_path / "run"
    assert len(prepared(FinetuneSettings(export, out)).split.photos) == 6
    assert [p.name for p in out.iterdir()] == ["data"]
    assert len(list(out.rglob("*.png"))) == 12
    damaged = zipped(write_export(tmp_path / "one", 1), tmp_path / "one.zip")
    with pytest.raises(ConfigError, match="too few"):
        prepared(FinetuneSettings(damaged, tmp_path / "other"))
    assert not (tmp_path / "other" / "unpacked").exists()


def test_a_wrong_export_on_the_same_photos_costs_nothing_of_a_long_run(tmp_path, capsys):
    export, out = write_export(tmp_path / "export"), tmp_path / "run"
    settings = FinetuneSettings(export, out)
    first = prepared(settings)
    train_for_weeks(out, "long")
    (out / "weights").mkdir()
    (out / "weights" / "config.json").write_text("promoted")
    long = contents(out)
    capsys.readouterr()
    for number, value in ((1, 5), (2, 1)):
        write_export(export, value=value)
        second = prepared(settings)
        told = capsys.readouterr().out
        assert f"what the run made before is kept in {out / f'earlier-{number}'}" in told
        assert contents(out / f"earlier-{number}") == long
        assert (out / "weights" / "config.json").read_text() == "promoted"
        kept = ["data", *(f"earlier-{n}" for n in range(1, number + 1)), "settings.json", "weights"]
        assert sorted(p.name for p in out.iterdir()) == kept
        train_for_weeks(out, f"next {number}")
        long = {name: data for name, data in contents(out).items() if not name.startswith("earlier-")}
    assert second.split == first.split  # the first annotations again

    assert prepared(settings).split == second.split  # nothing has changed: nothing is moved
    assert not (out / "earlier-3").exists()


def test_an_export_of_other_photos_moves_nothing(tmp_path):
    out = tmp_path / "run"
    prepared(FinetuneSettings(write_export(tmp_path / "export"), out))
    train_for_weeks(out, "long")
    before = contents(out)
    with pytest.raises(ConfigError, match="holds a run on other photos"):
        prepared(FinetuneSettings(write_export(tmp_path / "other", seed=1), out))
    assert contents(out) == before


def test_a_run_put_back_is_whole(tmp_path):
    export, out = write_export(tmp_path / "export"), tmp_path / "run"
    settings = FinetuneSettings(export, out)
    times = {p: p.stat().st_mtime_ns for p in export.rglob("*.png")}
    first = prepared(settings)
    digest = json.loads((out / "data" / "parts.json").read_text())["export"]
    train_for_weeks(out, "long")
    long = contents(out)
    wrong = write_export(tmp_path / "wrong", value=5)
    prepared(FinetuneSettings(wrong, out))
    (out / "earlier-1").rename(tmp_path / "again")
    assert {p: p.stat().st_mtime_ns for p in export.rglob("*.png")} == times
    assert json.loads((tmp_path / "again" / "data" / "parts.json").read_text())["export"] == digest
    assert prepared(FinetuneSettings(export, tmp_path / "again")) == first
    assert contents(tmp_path / "again") == long
