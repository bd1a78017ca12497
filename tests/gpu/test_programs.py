"""Commands on a GPU: they start, say what they run on, and do what they do on a CPU."""

import json

import pytest
import torch
from PIL import Image

from icmformer import weights
from icmformer.images.masks import read_mask
from icmformer.models import build_network
from tests.commands import run_module
from tests.engines import MINIATURE
from tests.gpu.conftest import CLICKS, CPU, engine_on, iou

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(60)]


@pytest.fixture
def name(device):
    """What the commands should say that they run on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "1 threads"


def test_the_doctor_names_the_gpu_and_segments_on_it(device, name, monkeypatch):
    monkeypatch.setenv("ICMFORMER_RUNTIME", "torch")
    told = run_module("icmformer", "doctor", "--device", str(device), "--json")
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert name in checks["device"]["text"]
    assert checks["segment"]["state"] == "ok", checks["segment"]
    assert checks["segment"]["facts"]["runtime"] == "torch"
    assert checks["segment"]["facts"]["iou"] > 0.8
    if device.type == "cuda":
        assert "bf16 yes" in checks["device"]["text"]
        assert checks["torch"]["state"] == "ok", checks["torch"]
        assert checks["gpu"]["state"] == "ok", checks["gpu"]
        assert checks["gpu"]["facts"]["total_mb"] > 1024


def test_segment_writes_the_cpus_mask(device, cat, tmp_path):
    Image.fromarray(cat).save(tmp_path / "cat.png")
    clicks = [f"--{'click' if c.positive else 'negative'}={c.x},{c.y}" for c in CLICKS[:2]]
    options = ["--device", device, "--runtime", "torch", "--profile", "exact", "--json", "-o", tmp_path / "mask.png"]
    done = run_module("icmformer", "segment", tmp_path / "cat.png", *clicks, *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    right = engine_on(CPU).segment(cat, CLICKS[:2])
    found = read_mask(tmp_path / "mask.png") > 0
    assert iou(found, right.mask) > 0.999
    assert told["area"] == int(found.sum())
    assert told["score"] == pytest.approx(right.score, abs=1e-3)
    assert {"encode", "decode", "total"} <= told["timings_ms"].keys()


def test_bench_measures_on_the_device(device, name, tmp_path):
    torch.manual_seed(0)
    published = weights.save(tmp_path / "tiny", MINIATURE, build_network(MINIATURE).state_dict(), "tiny")
    options = ["--device", device, "--weights", "starter", "--published", published, "--repeats", "1"]
    options += ["--megapixels", "1", "--clients", "1", "3", "--seconds", "0.3", "--json", tmp_path / "bench.json"]
    options += ["--drift", "100000"]
    done = run_module("training.bench", *options)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    on_gpu = device.type == "cuda"
    assert figures["machine"] in done.stdout
    assert name in figures["machine"] or not on_gpu
    assert {row["profile"] for row in figures["clicks"]} == {"exact", "fast"}
    assert {"torch"} == {row["runtime"] for row in figures["clicks"]} or not on_gpu
    for row in figures["clicks"]:
        assert 0 < row["rest_ms"] < row["later_ms"]
        assert row["first_ms"] > 0
        assert (row["gpu_mb"] > 10) is on_gpu
    assert [row["clients"] for row in figures["throughput"]] == [1, 3]
    assert all(row["clicks_a_second"] > 1 for row in figures["throughput"])
    assert ("GPU memory" in done.stdout) is on_gpu
