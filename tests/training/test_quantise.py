import pytest
from skimage import data

from icmformer import Click, LoadedImage, weights
from icmformer.inference.backends import openvino as openvino_backend
from tests.engines import in_precision
from training.quantise import main

pytestmark = pytest.mark.skipif(not openvino_backend.available(), reason="OpenVINO is not installed")


def test_the_command_measures_ranges_and_leaves_the_values_alone(shard_root, tmp_path, capsys):
    arguments = ["--weights", "starter", "--root", str(shard_root / "tiny.zip"), "-o", str(tmp_path / "rounded")]
    arguments += ["--limit", "3"]
    assert main([*arguments, "--clicks", "2"]) == 0
    assert "48 products of the encoder, 63 of the decoder" in capsys.readouterr().out
    found, starter = weights.load(tmp_path / "rounded"), weights.load("starter")
    assert found.sha256 == starter.sha256
    assert found.int8.encode.keys() == starter.int8.encode.keys()
    assert found.int8.decode.keys() == starter.int8.decode.keys()
    for low, high in (*found.int8.encode.values(), *found.int8.decode.values()):
        assert low < high
    prompts = [name for name in found.int8.decode if "patch_embed_coords" in name]
    assert [found.int8.decode[name] for name in prompts] == [pytest.approx((0, 1), abs=0.01)]  # of a map of disks
    assert in_precision("int8", found).segment(LoadedImage.from_array(data.chelsea()), [Click(170, 120)]).mask.any()
    assert main(arguments) == 2
    assert "already holds weights" in capsys.readouterr().err


def test_weights_stay_stored_as_they_were(shard_root, tmp_path, monkeypatch):
    """Whatever precision is set: nobody has ranges before they are measured."""
    monkeypatch.setenv("ICMFORMER_PRECISION", "int8")
    starter = weights.load("starter")
    values = {name: value * 1.0001 for name, value in starter.state_dict.items()}
    for stored in ("fp32", "fp16"):
        plain = weights.save(tmp_path / stored, starter.config, values, stored, stored=stored)
        arguments = ["--weights", str(plain), "--root", str(shard_root / "tiny.zip"), "--limit", "1", "--clicks", "1"]
        assert main([*arguments, "-o", str(tmp_path / f"{stored}-ranges")]) == 0
        found = weights.load(tmp_path / f"{stored}-ranges")
        assert found.sha256 == weights.load(plain).sha256
        assert found.int8


def test_what_cannot_be_measured_is_told(shard_root, tmp_path, capsys):
    arguments = ["--root", str(shard_root / "tiny.zip"), "--limit", "1", "-o", str(tmp_path / "no")]
    with pytest.raises(SystemExit):
        main([*arguments, "--clicks", "0"])
    assert "--clicks" in capsys.readouterr().err
    assert main([*arguments, "--profile", "exact"]) == 2
    assert "profile fast" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
