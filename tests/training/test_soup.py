import pytest
import torch

from icmformer import weights
from icmformer.models import build_network
from icmformer.weights import CloseUp, ServingDefaults
from tests.conftest import TINY
from tests.engines import MINIATURE
from training.soup import main


@pytest.fixture
def two(tmp_path):
    """Weights of one network after different draws."""
    folders, states = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(build_network(MINIATURE).state_dict())
        serving = ServingDefaults(close_up=CloseUp(seed + 2, 60, 1.25))
        about = {"samples": seed}
        folder = weights.save(tmp_path / f"w{seed}", MINIATURE, states[-1], f"w{seed}", about, serving=serving)
        folders.append(str(folder))
    return folders, states


@pytest.mark.parametrize(("options", "shares"), [([], (0.5, 0.5)), (["--shares", "0.2", "0.8"], (0.2, 0.8))])
def test_parameters_are_the_weighted_mean_and_the_rest_the_lasts(two, tmp_path, options, shares, capsys):
    folders, states = two
    assert main([*folders, *options, "-o", str(tmp_path / "soup")]) == 0
    assert f"{shares[0]:g} w1 + {shares[1]:g} w2" in capsys.readouterr().out
    found = weights.load(tmp_path / "soup")
    for name, value in found.state_dict.items():
        torch.testing.assert_close(value, torch.lerp(states[0][name], states[1][name], shares[1]))
    assert (found.name, found.serving.close_up.from_click, found.about["samples"]) == ("w2", 4, 2)
    assert [part["share"] for part in found.about["soup"]] == list(shares)
    assert found.about["soup"][0]["sha256"] == weights.load(folders[0]).sha256


def test_a_soup_of_one_kind_only_is_that_kind(two, tmp_path):
    folders, states = two
    assert main([folders[0]] * 3 + ["-o", str(tmp_path / "soup"), "--name", "same", "--store", "fp16"]) == 0
    found = weights.load(tmp_path / "soup")
    assert found.name == "same"
    for name, value in found.state_dict.items():
        torch.testing.assert_close(value, states[0][name].half().float())


def test_what_are_no_parameters_stay_as_they_are(tmp_path):
    """Swin has a table of relative positions in its state, which thirds would round down."""
    swin = weights.load("random:icmformer_swin_tiny224")
    folder = str(weights.save(tmp_path / "swin", swin.config, swin.state_dict, "swin"))
    assert main([folder] * 3 + ["-o", str(tmp_path / "soup")]) == 0
    found = weights.load(tmp_path / "soup").state_dict
    whole = [name for name, value in swin.state_dict.items() if not value.is_floating_point()]
    assert whole
    assert all(torch.equal(found[name], swin.state_dict[name]) for name in whole)


def test_what_cannot_be_averaged_is_told(two, tmp_path, capsys):
    folders, _ = two
    out = ["-o", str(tmp_path / "soup")]
    for arguments, told in (
        ([folders[0]], "two weights or more"),
        ([*folders, "--shares", "1"], "a share of each, got 2 and 1"),
        ([*folders, "--shares", "0.5", "0.6"], "shares add up to 1, got 0.5 + 0.6"),
        ([folders[0], TINY], "of another network"),
        ([folders[0], str(tmp_path / "none")], "none"),
    ):
        assert main([*arguments, *out]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "soup").exists()
    assert main([*folders, *out]) == 0
    assert main([*folders, *out]) == 2
    assert "already holds weights" in capsys.readouterr().err
