import dataclasses
import hashlib
import json
import os
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from icmformer import weights
from icmformer.errors import WeightsError
from icmformer.models import build_network
from icmformer.models.config import config_mapping, network_config
from icmformer.weights.quantise import unpack
from icmformer.weights.serving_defaults import AS_PUBLISHED, CloseUp, ServingDefaults
from tests.conftest import ROOT
from tests.weights.conftest import NAME
from training.loop.config import load_config


def test_native_weights_come_back_bit_for_bit(native, network):
    found = weights.load(native)
    assert found.config == config_mapping(network_config(NAME))
    assert (found.name, found.about) == ("mine", {"data": "none"})
    assert found.sha256 == hashlib.sha256((native / "model.safetensors").read_bytes()).hexdigest()
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict[name], tensor)
    for name, tensor in found.build().state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


def test_whoever_may_read_the_folder_may_read_the_weights(network, tmp_path):
    before = os.umask(0o022)
    try:
        folder = weights.save(tmp_path / "mine", NAME, network.state_dict(), "mine")
    finally:
        os.umask(before)
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in folder.iterdir()} == dict.fromkeys(
        ("config.json", "model.safetensors", "SHA256SUMS"), "0o644"
    )


def test_sums_are_those_of_sha256sum(native):
    assert (
        subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=native, capture_output=True, check=False).returncode == 0
    )


def test_half_precision_is_stored_small_and_loaded_as_float32(network, tmp_path):
    folder = weights.save(tmp_path / "half", NAME, network.state_dict(), "half", stored="fp16")
    found = weights.load(folder)
    for name, tensor in network.state_dict().items():
        assert found.state_dict[name].dtype == torch.float32
        assert torch.equal(found.state_dict[name], tensor.half().float())
    assert (folder / "model.safetensors").stat().st_size < 2.1 * sum(t.numel() for t in found.state_dict.values())


def test_bytes_are_a_quarter_and_half_a_step_off_at_most(network, tmp_path):
    state = network.state_dict()
    folder = weights.save(tmp_path / "bytes", NAME, state, "bytes", stored="int8")
    found = weights.load(folder).state_dict
    assert found.keys() == state.keys()
    large = [n for n, tensor in state.items() if tensor.ndim > 1 and len(tensor) > 1 and tensor.numel() >= 1024]
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        if name in large:
            rows = tensor.flatten(1).numpy().astype(np.float64)
            step = np.abs(rows).max(axis=1, keepdims=True) / 127
            off = np.abs(found[name].flatten(1).numpy() - rows)
            assert (off <= step / 2 * 1.0001 + 1e-12).all()
            assert off.any()
        else:
            assert torch.equal(found[name], tensor)
    full = weights.save(tmp_path / "full", NAME, state, "full")
    sizes = [(made / "model.safetensors").stat().st_size for made in (folder, full)]
    assert sizes[0] < 0.35 * sizes[1]
    again = weights.save(tmp_path / "again", NAME, found, "again", stored="int8")
    twice = weights.load(again).state_dict
    assert all(torch.allclose(twice[name], found[name], rtol=1e-6, atol=0) for name in found)


def test_a_network_that_has_scales_of_its_own_is_stored_as_bytes_too(tmp_path):
    hybrid = weights.load("starter")
    large = {**hybrid.state_dict}
    assert any(name.endswith(".scale") for name in large)
    found = weights.load(weights.save(tmp_path / "h", hybrid.config, large, "h", stored="int8")).state_dict
    assert found.keys() == large.keys()
    assert all(torch.allclose(found[name], large[name], atol=float(large[name].abs().max()) / 250) for name in large)
    packed = load_file(tmp_path / "h" / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in packed.items()}, tmp_path / "h.safetensors")
    assert unpack(load_file(tmp_path / "h.safetensors")).keys() == {f"module.{name}" for name in large}
    with pytest.raises(ValueError, match="not 'half'"):
        weights.save(tmp_path / "no", hybrid.config, large, "no", stored="half")


@pytest.mark.parametrize(
    ("written", "serving"),
    [
        ('"format": 1', AS_PUBLISHED),
        ('"format": 1, "min_crop_size": 60', ServingDefaults(60)),
        ('"format": 1, "second_look": true', ServingDefaults(refinement_pass=True)),
        ('"format": 2, "second_look": true, "click_margin": 5', ServingDefaults(200, True, 5)),
        ('"format": 2, "second_look": false, "score_sharpness": 2.5', ServingDefaults(200, False, 0, 2.5)),
        ('"format": 3, "refinement_pass": true', ServingDefaults(refinement_pass=True)),
        ('"format": 3, "close_up": null', AS_PUBLISHED),
        (
            '"format": 3, "close_up": {"from_click": 3, "min_crop_size": 60, "expansion_ratio": 1.25}',
            ServingDefaults(close_up=CloseUp(3, 60, 1.25)),
        ),
    ],
)
def test_folders_of_all_formats_load(network, tmp_path, written, serving):
    """Written by hand, as older versions did."""
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    about = '"name": "old", "about": {"data": "none"}'
    config = json.dumps(config_mapping(network_config(NAME)))
    (tmp_path / "config.json").write_text(f'{{{written}, {about}, "network": {config}}}')
    files = ("config.json", "model.safetensors")
    sums = "".join(f"{hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()}  {file}\n" for file in files)
    (tmp_path / "SHA256SUMS").write_text(sums)
    found = weights.load(tmp_path)
    assert (found.serving, found.name, found.about) == (serving, "old", {"data": "none"})
    again = weights.save(tmp_path / "again", found.config, found.state_dict, "again", serving=found.serving)
    told = json.loads((again / "config.json").read_text())
    assert (told["format"], told["refinement_pass"]) == (3, serving.refinement_pass)
    assert "second_look" not in told


@pytest.mark.parametrize("config", ["starter", "starter_gpu", "starter_late", "starter_spread", "starter_regions"])
def test_a_starter_trained_again_is_served_as_this_one_is(config):
    starter = weights.load("starter")
    assert load_config(ROOT / f"training/configs/{config}.yaml").serving == starter.serving
    assert starter.serving.close_up


def test_rows_of_zeros_are_stored_as_bytes(network, tmp_path):
    state = {**network.state_dict()}
    name = next(k for k, v in state.items() if v.ndim > 1 and len(v) > 1 and v.numel() >= 1024)
    state[name] = torch.zeros_like(state[name])
    found = weights.load(weights.save(tmp_path / "zeros", NAME, state, "zeros", stored="int8"))
    assert torch.equal(found.state_dict[name], state[name])


def test_scales_that_do_not_fit_are_told(network, tmp_path):
    folder = weights.save(tmp_path / "w", NAME, network.state_dict(), "w", stored="int8")
    packed = load_file(folder / "model.safetensors")
    name = next(k for k in packed if k.endswith(".scale"))
    packed[name] = packed[name][:-1]
    save_file(packed, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        weights.load(tmp_path / "cut.safetensors")
    del packed[name]
    save_file(packed, tmp_path / "none.safetensors")
    with pytest.raises(WeightsError):
        weights.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "sha256"),
        (lambda f: (f / "config.json").write_text("{}"), "sha256"),
        (lambda f: (f / "SHA256SUMS").unlink(), "not a weights folder"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused(native, damage, text):
    damage(native)
    with pytest.raises(WeightsError, match=text):
        weights.load(native)


def resum(folder):
    names = ("config.json", "model.safetensors")
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 99}, "update icmformer"),
        ({"network": {"family": "unet"}}, "unknown network family"),
        ({"network": config_mapping(network_config("icmformer_vit_small448"))}, "another variant"),
        ({"network": {**config_mapping(network_config(NAME)), "depth": "8"}}, "depth must be int"),
        ({"min_crop_size": 0}, "min_crop_size must be a positive number"),
        ({"min_crop_size": "60"}, "min_crop_size must be a positive number"),
        ({"refinement_pass": 1}, "refinement_pass must be true or false"),
        ({"click_margin": -1}, "click_margin must be a number of pixels from 0 to 32"),
        ({"click_margin": 2.5}, "click_margin must be"),
        ({"score_sharpness": 0}, "score_sharpness must be a positive number"),
        ({"score_sharpness": float("nan")}, "score_sharpness must be"),
        ({"score_sharpness": True}, "score_sharpness must be"),
        ({"threshold": 1.0}, "threshold must be a probability"),
        ({"threshold": 1}, "threshold must be a probability"),
        ({"close_up": True}, "close_up must be a mapping of expansion_ratio, from_click, min_crop_size"),
        ({"close_up": {"from_click": 3}}, "close_up must be a mapping"),
        ({"close_up": {"from_click": 1, "min_crop_size": 60, "expansion_ratio": 2}}, "from_click must be 2 or a later"),
        ({"close_up": {"from_click": 3, "min_crop_size": 0, "expansion_ratio": 2}}, "close_up.min_crop_size must be"),
        ({"close_up": {"from_click": 3, "min_crop_size": 9, "expansion_ratio": 0.5}}, "a number from 1 to 10"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(native, change, text):
    description = json.loads((native / "config.json").read_text())
    (native / "config.json").write_text(json.dumps({**description, **change}))
    resum(native)
    with pytest.raises(WeightsError, match=text):
        weights.load(native)


def test_wrong_shapes_missing_and_unknown_parameters_are_refused(network, tmp_path):
    state = network.state_dict()
    for change, text in (
        ({"neck.down_16.0.bias": torch.zeros(7)}, "has shape"),
        ({"extra": torch.zeros(1)}, "1 unknown"),
        ({"neck.down_16.0.bias": torch.full_like(state["neck.down_16.0.bias"], torch.nan)}, "not finite"),
    ):
        with pytest.raises(WeightsError, match=text):
            weights.save(tmp_path / "bad", NAME, {**state, **change}, "bad")
    del state["neck.down_16.0.bias"]
    with pytest.raises(WeightsError, match="1 parameters missing"):
        weights.save(tmp_path / "bad", NAME, state, "bad")
    assert not (tmp_path / "bad").exists()


def test_numbers_of_the_wrong_type_are_refused(network, tmp_path):
    state = network.state_dict()
    name = "neck.down_16.0.bias"
    for wrong, text in ((state[name].long(), "has type"), (state[name].to(torch.complex64), "has type")):
        with pytest.raises(WeightsError, match=text):
            weights.save(tmp_path / "bad", NAME, {**state, name: wrong}, "bad")
    with pytest.raises(WeightsError, match="not finite as fp16"):
        weights.save(tmp_path / "bad", NAME, {**state, name: torch.full_like(state[name], 1e6)}, "bad", stored="fp16")
    swin = build_network("icmformer_swin_tiny224").state_dict()
    index = next(k for k in swin if k.endswith("relative_position_index"))
    for wrong in (swin[index].float(), swin[index] + 1):
        with pytest.raises(WeightsError, match="relative_position_index"):
            weights.save(tmp_path / "bad", "icmformer_swin_tiny224", {**swin, index: wrong}, "bad")


def test_networks_of_the_same_weights_do_not_share_memory(native):
    found = weights.load(native)
    first, second = found.build(), found.build()
    name = "neck.down_16.0.bias"
    with torch.no_grad():
        first.get_parameter(name).add_(1)
    assert not torch.equal(first.get_parameter(name), second.get_parameter(name))
    assert torch.equal(second.get_parameter(name), found.state_dict[name])


def test_overwriting_the_file_does_not_reach_a_loaded_network(native):
    found = weights.load(native)
    before = {k: v.clone() for k, v in found.state_dict.items()}
    with (native / "model.safetensors").open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))
    assert all(torch.equal(before[k], v) for k, v in found.state_dict.items())


def test_the_identity_names_config_and_values(native, network, tmp_path):
    config = {**config_mapping(network_config(NAME)), "num_heads": 6}
    other = weights.load(weights.save(tmp_path / "other", config, network.state_dict(), "mine", {"data": "none"}))
    assert other.sha256 == weights.load(native).sha256
    assert other.identity != weights.load(native).identity
    assert weights.load(native).serving == AS_PUBLISHED == ServingDefaults(200, False, 0, 1.0)
    changes = (
        {"min_crop_size": 60},
        {"refinement_pass": True},
        {"click_margin": 5},
        {"score_sharpness": 2.5},
        {"threshold": 0.6},
        {"close_up": CloseUp(3, 60, 1.25)},
    )
    served = [ServingDefaults(**change) for change in changes]
    others = [
        weights.load(weights.save(tmp_path / str(n), NAME, network.state_dict(), "mine", serving=one))
        for n, one in enumerate(served)
    ]
    assert [one.serving for one in others] == served
    assert {one.sha256 for one in others} == {weights.load(native).sha256}
    assert len({one.identity for one in (*others, weights.load(native))}) == 7


def test_a_new_serving_field_left_at_its_default_changes_no_identity(native, monkeypatch):
    found = weights.load(native)
    before = found.identity
    monkeypatch.setattr(ServingDefaults, "as_mapping", lambda self: {**dataclasses.asdict(self), "later": 1})
    assert found.identity == before


@pytest.mark.parametrize("content", [{1: torch.ones(1)}, [1, 2], {"state_dict": {}}, {"state_dict": {"a": 1}}, 7])
def test_files_without_a_state_dict_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError):
        weights.load(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-at-all/w"])
def test_names_that_can_be_no_path_are_refused(name):
    with pytest.raises(WeightsError):
        weights.load(name)


def test_a_bare_safetensors_file_tells_its_network(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "bare.safetensors")
    assert weights.load(tmp_path / "bare.safetensors").config == config_mapping(network_config(NAME))
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "bare.safetensors").read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cut short"):
        weights.load(tmp_path / "broken.safetensors")


def test_the_published_checkpoint_loads(shared):
    found = weights.load(shared / "reference" / "official_format_checkpoint.pth")
    case = json.loads((shared / "reference" / "networks" / "icmformer_vit_d12" / "case.json").read_text())
    assert found.config == case["config"]
    assert found.build().config == network_config(case["config"])


@pytest.mark.parametrize("variant", ["icmformer_swin_tiny224", "simpleclick_vit_tiny224", "icmformer_vit_base448"])
def test_a_published_file_without_config_tells_its_network(variant, tmp_path):
    state = build_network(variant).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    found = network_config(weights.load(tmp_path / "w.pth").config)
    known = network_config(variant)
    assert type(found) is type(known)
    assert (found.embed_dim, found.num_heads, found.head_channels) == (
        known.embed_dim,
        known.num_heads,
        known.head_channels,
    )


def test_a_backbone_alone_is_refused_with_advice(tmp_path):
    torch.save({"model": {"blocks.0.norm1.weight": torch.ones(3)}}, tmp_path / "mae.pth")
    with pytest.raises(WeightsError, match="state dict"):
        weights.load(tmp_path / "mae.pth")
    torch.save({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "mae.pth")
    with pytest.raises(WeightsError, match="backbone alone"):
        weights.load(tmp_path / "mae.pth")


def test_random_weights_are_the_same_every_time():
    first, second = weights.load(f"random:{NAME}"), weights.load(f"random:{NAME}")
    assert first.sha256 == second.sha256
    assert all(torch.equal(first.state_dict[k], second.state_dict[k]) for k in first.state_dict)
    with pytest.raises(WeightsError, match="registered"):
        weights.load("random:resnet50")
