"""The paper's ViT-B by its own config on real COCO+LVIS images: some steps, a stop, on again, exported, evaluated."""

import json

import pytest
import yaml

from icmformer import weights
from tests.conftest import ROOT
from training.data.build_coco_lvis import main as build
from training.evaluate import main as evaluate
from training.export import main as export
from training.train import main as train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_vit_b_trains_goes_on_and_is_evaluated(shared, tmp_path, capsys, monkeypatch):
    fixtures = shared / "data" / "fixtures" / "coco_lvis"
    options = ["--lvis", fixtures / "lvis.json", "--instances", fixtures / "coco_instances.json"]
    options += ["--images", fixtures / "images", "--out", tmp_path / "coco_lvis", "--jobs", "1"]
    assert build([str(o) for o in options]) == 0
    raw = yaml.safe_load((ROOT / "training/configs/paper/icmformer_vit_base448_coco_lvis.yaml").read_text())
    raw |= {"batch": 2, "samples": 6, "max_rounds": 1, "pictures": 0}  # an epoch of three steps
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    line = [str(tmp_path / "config.yaml"), "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]
    line += ["--device", "cpu", "--workers", "0"]
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: self.trainer.seen >= 2)
        assert train(line) == 0
    assert "saved after 2 samples" in capsys.readouterr().out
    assert train(line) == 0
    told = capsys.readouterr().out
    assert "going on after 2 samples" in told
    assert "saved after 6 samples" in told
    rows = [json.loads(row) for row in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["seen"] for row in rows if "loss" in row] == [2, 4, 6]
    assert export([str(tmp_path / "run"), "-o", str(tmp_path / "weights")]) == 0
    assert weights.load(tmp_path / "weights").about["samples"] == 6
    where = ["--dataset", "GrabCut", "--root", str(shared / "data" / "eval" / "GrabCut"), "--limit", "1"]
    options = ["--weights", str(tmp_path / "weights"), "--profile", "fast", "--out", str(tmp_path / "evaluated")]
    assert evaluate([*where, *options]) == 0
    results = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert results["target_size"] == [448, 448]
    assert results["objects"] == 1
