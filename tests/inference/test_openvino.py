"""OpenVINO against torch: the same network, the same masks, whatever is in the cache folder."""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from icmformer import Caches, Click, Engine, weights
from icmformer.cli.main import main
from icmformer.errors import ConfigError
from icmformer.inference.backends import openvino as openvino_backend
from icmformer.inference.backends.openvino import OpenVINOBackend
from icmformer.inference.backends.torch import Precision, TorchBackend
from icmformer.inference.profiles import find_runtime, has_bf16
from icmformer.models import build_network
from icmformer.weights import Weights
from icmformer.weights.serving_defaults import ServingDefaults
from tests.conftest import TINY, TRAINED
from tests.engines import MINIATURE, engine

pytestmark = pytest.mark.skipif(not openvino_backend.available(), reason="needs the [cpu] extra")

CPU = torch.device("cpu")
SMALL = {**MINIATURE, "published_extras": True}
"""Converted in a moment; as made and as read back it differs in last bits, which the miniature does not."""
SWIN = {
    "family": "icmformer-swin",
    "img_size": 224,
    "embed_dim": 24,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 7,
    "head_channels": 16,
}


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(config, **served):
    if isinstance(config, str):
        return weights.load(config)
    torch.manual_seed(0)
    state = build_network(config).state_dict()
    return Weights(config, dict(state), "made", "made", serving=ServingDefaults(**served))


def asked(photo, served=None):
    """The reply of a new engine to one click."""
    found = made(SMALL) if served is None else served
    return Engine(found, "cpu", "exact", Caches(), "openvino").segment(photo, [Click(200.5, 120.5)])


@pytest.mark.parametrize(
    ("config", "batch", "size"),
    [
        (TINY, 2, (224, 224)),
        (TINY, 1, (448, 224)),  # four windows a row less, positions resized
        ("random:simpleclick_vit_tiny224", 1, (224, 224)),
        (SWIN, 1, (224, 224)),
        (SWIN, 2, (160, 192)),  # windows padded
        (TRAINED, 2, (320, 320)),
        (TRAINED, 1, (256, 384)),
    ],
)
def test_logits_are_torchs(config, batch, size, cache_home):
    found = made(config)
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(batch, 3, *size, generator=generator)
    previous = torch.rand(batch, 1, *size, generator=generator)
    points = torch.tensor([[[80.0, 90, 0], [20, 30, 1], [-1, -1, -1], [50, 150, 2]]]).expand(batch, -1, -1)
    theirs = TorchBackend(found.build(), CPU, Precision())
    ours = OpenVINOBackend(found, "fp32", threads=2, cache_dir=cache_home)
    features = ours.encode(image)
    for mine, expected in zip(features.tensors, theirs.encode(image).tensors, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    expected = theirs.decode(theirs.encode(image), previous, points)
    torch.testing.assert_close(ours.decode(features, previous, points), expected, rtol=0, atol=1e-4)
    assert expected.std() > 1e-4  # there is something to compare


def test_exact_masks_are_those_of_torch_click_for_click(photo):
    clicks = [Click(200.5, 120.5), Click(150.5, 200.5, positive=False), Click(260.5, 160.5), Click(90.5, 60.5)]
    one, other = (engine(runtime=name) for name in ("torch", "openvino"))
    assert (one.runtime, other.runtime) == ("torch", "openvino")
    for count in range(1, len(clicks) + 1):
        a, b = one.segment(photo, clicks[:count]), other.segment(photo, clicks[:count])
        assert a.roi == b.roi
        np.testing.assert_allclose(a.probability, b.probability, rtol=0, atol=2.5e-5)  # 1e-4 of a logit
        assert (a.mask != b.mask).sum() <= 1e-5 * a.mask.size


@pytest.mark.parametrize("profile", ["exact", "fast"])
def test_replies_do_not_depend_on_what_was_asked_before(photo, profile):
    """Nor on the process: each cold engine compiles the network for itself."""
    clicks = [Click(200.5, 120.5), Click(150.5, 200.5, positive=False)]
    options = {"device": "cpu", "profile": profile, "runtime": "openvino"}
    cold = {n: Engine.from_weights(TRAINED, caches=Caches(), **options).segment(photo, clicks[:n]) for n in (1, 2)}
    warm = Engine.from_weights(TRAINED, **options)
    for count in (1, 2, 1, 2):
        assert warm.segment(photo, clicks[:count]) == cold[count]


def test_a_network_is_converted_once_and_a_damaged_copy_made_anew(photo, cache_home, monkeypatch):
    first = asked(photo)
    (folder,) = (cache_home / "openvino").iterdir()
    exports = []
    export = openvino_backend.split
    monkeypatch.setattr(openvino_backend, "split", lambda *args: exports.append(1) or export(*args))
    assert asked(photo) == first
    assert not exports
    (folder / "decode.xml").write_bytes(b"<net>")
    assert asked(photo) == first
    assert len(exports) == 1
    asked(photo, made(SMALL, min_crop_size=60))
    assert len(exports) == 2  # other weights, another folder
    assert len(list((cache_home / "openvino").iterdir())) == 2


def test_the_cache_folder_is_bounded_and_keeps_what_was_used_last(photo, cache_home, monkeypatch):
    sizes = []

    def used(crop):
        asked(photo, made(SMALL, min_crop_size=crop))
        sizes.append(sum(p.stat().st_size for p in (cache_home / "openvino").rglob("*") if p.is_file()))
        return {p.name for p in (cache_home / "openvino").iterdir()}

    first = used(200)
    room = 2 * sizes[0] + sizes[0] // 4  # for two
    monkeypatch.setattr(openvino_backend, "_CACHE_BYTES", room)
    both = used(100)
    assert len(both) == 2
    used(200)  # once more: now the other is the oldest
    last = used(60)
    assert len(last) == 2
    assert first < last
    assert max(sizes) < room


def test_a_kept_network_is_used_from_a_folder_that_cannot_be_written(photo, monkeypatch):
    right = asked(photo)

    def refused(*args, **options):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr("os.utime", refused)
    monkeypatch.setattr("icmformer.inference.backends.openvino.split", refused)
    assert np.array_equal(asked(photo).probability, right.probability)


def test_a_cache_folder_that_cannot_be_written_costs_only_time(photo, cache_home):
    right = asked(photo)
    shutil.rmtree(cache_home)
    cache_home.write_text("a file where the folder should be")
    assert np.array_equal(asked(photo).probability, right.probability)


def test_no_use_of_it_is_reported(tmp_path):
    """OpenVINO's own import starts a process that would, and that leaves an identifier in the home."""
    program = "import icmformer; icmformer.Engine.from_weights('starter', 'cpu', runtime='openvino').warm_up()"
    environment = {n: v for n, v in os.environ.items() if n not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(tmp_path), "ICMFORMER_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    usual = [sys.executable, "-c", "import openvino, time; time.sleep(1)"]
    subprocess.run(usual, env=environment, check=True, timeout=120)
    assert (tmp_path / "intel").exists()  # so that this test notices


def test_nothing_goes_to_the_network(photo, cache_home, monkeypatch):
    """OpenVINO brings a telemetry package; nothing here may wake it."""
    shutil.rmtree(cache_home, ignore_errors=True)
    connections = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connections.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: connections.append(args) or [])
    asked(photo)
    assert not connections


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(monkeypatch):
    assert find_runtime("auto", CPU) == "openvino"
    assert find_runtime("auto", torch.device("cuda")) == "torch"
    with pytest.raises(ConfigError, match="runs on the CPU"):
        find_runtime("openvino", torch.device("cuda"))
    with pytest.raises(ConfigError, match="unknown runtime"):
        find_runtime("tensorrt", CPU)
    monkeypatch.setattr(openvino_backend, "available", lambda: False)
    assert find_runtime("auto", CPU) == "torch"
    with pytest.raises(ConfigError, match=r"icmformer\[cpu\]"):
        Engine.from_weights(TRAINED, "cpu", runtime="openvino")


def test_fast_is_bf16_only_where_the_processor_has_it(monkeypatch):
    fast = Engine.from_weights(TRAINED, "cpu", "fast", runtime="openvino")
    assert fast.arithmetic == fast.backend.identity[2] == ("bf16" if has_bf16(CPU) else "fp32")
    monkeypatch.setattr("icmformer.inference.profiles.has_bf16", lambda device: False)
    fast = Engine.from_weights(TRAINED, "cpu", "fast", runtime="openvino")
    assert fast.arithmetic == fast.backend.identity[2] != "bf16"
    assert Engine.from_weights(TRAINED, "cpu", "exact", runtime="openvino").arithmetic == "fp32"


def test_export_writes_onnx_that_agrees_with_torch(tmp_path, capsys):
    assert main(["export", TRAINED, "-o", str(tmp_path / "onnx"), "--batch", "2"]) == 0
    told = capsys.readouterr().out
    assert "largest difference of a logit" in told
    assert {p.name for p in (tmp_path / "onnx").iterdir()} == {"encode.onnx", "decode.onnx", "export.json"}
    import onnx

    graph = onnx.load(tmp_path / "onnx" / "decode.onnx").graph
    onnx.checker.check_model(str(tmp_path / "onnx" / "decode.onnx"), full_check=True)
    assert graph.input[0].name == "prompt"
    assert [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == [2, 1, 320, 320]
    assert main(["export", TRAINED, "-o", str(tmp_path / "bad"), "--size", "100"]) == 2
    assert "multiples of 32" in capsys.readouterr().err
