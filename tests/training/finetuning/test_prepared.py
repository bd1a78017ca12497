"""The data of a run: made once, again where the export was mended, and never at the price of what was made before."""

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
