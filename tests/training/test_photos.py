import csv
import json
import zipfile

import cv2
import numpy as np
import pytest

from training.evaluation.benchmarks import load_benchmark
from training.photos import main
from training.quantise import main as quantise

INDEX = (
    {"key": "k1", "set": "coco", "labels": [1], "source": "street, by day", "licence": "CC BY 2.0", "permissive": True},
    {"key": "k2", "set": "coco", "labels": [1], "source": "dog", "licence": "CC BY-NC 2.0", "permissive": False},
    {"key": "k3", "set": "animals", "labels": [1], "source": "cat", "licence": "CC0", "permissive": True},
    {"key": "k4", "set": "solar", "labels": [1], "source": "roof", "licence": "CC0", "permissive": True},  # held out
    {"key": "k5", "set": "coco", "labels": [1]},
)


@pytest.fixture
def root(tmp_path):
    labels = np.zeros((60, 80), np.uint8)
    labels[10:50, 20:60] = 1
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as archive:
        archive.writestr("index.jsonl", "\n".join(map(json.dumps, INDEX)))
        for row in INDEX:
            archive.writestr(f"{row['key']}.webp", cv2.imencode(".webp", cv2.merge([labels * 200] * 3))[1].tobytes())
            archive.writestr(f"{row['key']}.png", cv2.imencode(".png", labels)[1].tobytes())
    return tmp_path


@pytest.mark.parametrize("permissive", [True, False])
def test_the_list_names_what_a_config_trains_on(root, permissive, capsys):
    config, out = root / "config.yaml", root / "photos.csv"
    config.write_text(f"data: {{shards: [tiny.zip], permissive: {json.dumps(permissive)}}}\n")
    assert main([str(config), "--data-root", str(root), "-o", str(out)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["set", "source", "licence"]
    others = [["coco", "dog", "CC BY-NC 2.0"], ["coco", "k5", ""]]
    listed = [["animals", "cat", "CC0"], ["coco", "street, by day", "CC BY 2.0"], *([] if permissive else others)]
    assert rows[1:] == sorted(listed)
    printed = capsys.readouterr().out
    assert f"{len(listed)}  photos: {out}" in printed
    assert ("coco: no licence stated" in printed) is not permissive


def test_what_cannot_be_listed_is_told(root, capsys):
    assert main([str(root / "none.yaml"), "--data-root", str(root), "-o", str(root / "photos.csv")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(root / "none.yaml"), "--data-root", str(root), "-o", str(root / "photos.txt")])
    assert "must end in .csv" in capsys.readouterr().err


def test_weights_can_be_measured_on_permissive_photos_alone(root, shard_root, capsys):
    every = load_benchmark("shard", root / "tiny.zip")
    some = load_benchmark("shard", root / "tiny.zip", 2, permissive=True)
    assert [item.name for item in every] == [f"{row['set']}_{row['key']}_1" for row in INDEX]
    assert [item.name for item in some] == ["coco_k1_1", "animals_k3_1"]  # two of three, spread over them
    unsaid = ["--root", str(shard_root / "tiny.zip"), "--permissive", "-o", str(root / "new")]
    assert quantise(unsaid) == 2
    assert "it is said that its licence is permissive" in capsys.readouterr().err
