"""A set of the shards as a folder."""

import json
import zipfile

import cv2
import numpy as np
import pytest

from training.data.extract_set import main
from training.data.folders import Folder


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    written = {}
    for number in range(2):
        with zipfile.ZipFile(tmp_path / f"train-{number}.zip", "w") as archive:
            rows = []
            for name in ("solar", "cats"):
                key = f"{name}{number}"
                image = rng.integers(0, 255, (20, 30, 3), np.uint8)
                labels = np.zeros((20, 30), np.uint8)
                labels[2:9, 3:9], labels[12:15, 3:9] = 1, 2
                archive.writestr(f"{key}.webp", cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
                archive.writestr(f"{key}.png", cv2.imencode(".png", labels)[1])
                rows.append(json.dumps({"key": key, "set": name, "labels": [1, 2]}))
                written[key] = image[..., ::-1], labels
            archive.writestr("index.jsonl", "\n".join(rows))
    return tmp_path, written


def test_a_set_comes_out_of_all_shards_with_its_masks(shards, capsys):
    root, written = shards
    assert main(["--root", str(root), "--set", "solar", "--out", str(root / "out")]) == 0
    assert "2 photos" in capsys.readouterr().out
    folder = Folder(root / "out")
    assert [record.key for record in folder.records] == ["solar0", "solar1"]  # held out, which does not matter here
    for index, record in enumerate(folder.records):
        for found, expected in zip(folder.load(index), written[record.key], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--set", "dogs", "--out", "new"], "there are cats (2), solar (2)"),
        (["--set", "solar", "--out", "."], "is there already"),
    ],
)
def test_mistakes_are_told(shards, capsys, monkeypatch, options, text):
    monkeypatch.chdir(shards[0])
    assert main(["--root", ".", *options]) == 2
    assert text in capsys.readouterr().err
