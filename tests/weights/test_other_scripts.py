"""Checkpoints as other scripts write them: torch's own wrappers, saved by torch itself."""

import pathlib
import tracemalloc
import warnings
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from icmformer import Engine, weights
from icmformer.cli.main import main
from icmformer.errors import WeightsError
from icmformer.models import build_network
from icmformer.weights.state_dicts import find_state_dict
from icmformer.weights.unpickle import TorchFile
from icmformer.weights.warm_start import warm_start
from tests.engines import MINIATURE
from tests.weights.conftest import NAME
from training.loop.initial_weights import starting_network


class Owner(torch.nn.Module):
    """A module that owns the network, as Lightning's do."""

    def __init__(self, attribute, network, **others):
        super().__init__()
        setattr(self, attribute, network)
        for name, module in others.items():
            setattr(self, name, module)


@pytest.fixture(scope="module")
def parallel(network):
    """The network in a DistributedDataParallel of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DistributedDataParallel(network)
    dist.destroy_process_group()


def same(found, network, scale=1.0):
    expected = network.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor * scale if tensor.is_floating_point() else tensor), name


def times(state, factor):
    return {name: value * factor if value.is_floating_point() else value for name, value in state.items()}


def wrapped(kind, network, parallel):
    return {
        "compiled": lambda: torch.compile(network),
        "parallel": lambda: parallel,
        "compiled parallel": lambda: torch.compile(parallel),
        "averaged": lambda: AveragedModel(network),
        "averaged parallel": lambda: AveragedModel(parallel),
        "model.": lambda: Owner("model", network),
        "net.": lambda: Owner("net", torch.compile(network)),
        "with a loss": lambda: Owner("model", network, criterion=torch.nn.Linear(2, 2)),
        "deep": lambda: Owner("trainer", Owner("student", network)),
    }[kind]()


KINDS = ("compiled", "parallel", "compiled parallel", "averaged", "averaged parallel", "model.", "net.", "with a loss")


@pytest.mark.parametrize("kind", [*KINDS, "deep"])
def test_wrapped_networks_load(kind, network, parallel, tmp_path):
    state = wrapped(kind, network, parallel).state_dict()
    assert state.keys() != network.state_dict().keys()
    torch.save(state, tmp_path / "w.pth")
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            same(weights.load(tmp_path / file).state_dict, network)
        said = " ".join(str(w.message) for w in told)
        assert ("left out as it changes nothing: n_averaged" in said) == kind.startswith("averaged")
        assert ("2 other tensors left out" in said) == (kind == "with a loss")


def test_a_compiled_part_loads(network, tmp_path):
    """torch.compile of a submodule puts its word into the middle of the names."""
    other = build_network(NAME)
    other.load_state_dict(network.state_dict())
    other.backbone = torch.compile(other.backbone)
    state = other.state_dict()
    assert any(name.startswith("backbone._orig_mod.") for name in state)
    torch.save({"model": state}, tmp_path / "w.pth")
    same(weights.load(tmp_path / "w.pth").state_dict, network)
    torch.save({**state, **network.state_dict()}, tmp_path / "twice.pth")
    with pytest.raises(WeightsError, match="twice"):
        weights.load(tmp_path / "twice.pth")


@pytest.mark.parametrize(
    "key", ["model", "net", "network", "state_dict", "model_state_dict", "ema", "model_ema", "state_dict_ema", "module"]
)
def test_wrappers_are_opened(key, network, tmp_path):
    """Beside what scripts keep of their own, none of which is run."""
    optimizer = torch.optim.Adam(network.parameters())
    beside = {
        "epoch": 3,
        "optimizer": optimizer.state_dict(),
        "args": {"out": pathlib.Path("x"), "steps": Counter([1])},
    }
    beside |= {"device": torch.device("cpu"), "best": torch.tensor(0.5)}
    torch.save({**beside, key: {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth")
    same(weights.load(tmp_path / "w.pth").state_dict, network)
    same(starting_network(NAME, str(tmp_path / "w.pth"))[0].state_dict(), network)


def test_averaged_weights_go_before_others_and_that_is_said(network, tmp_path, capsys):
    state, path = network.state_dict(), tmp_path / "both.pth"
    averaged = AveragedModel(build_network(NAME))
    averaged.module.load_state_dict(times(state, 2))
    torch.save({"ema": averaged.state_dict(), "model": state}, path)
    with pytest.warns(weights.WeightsWarning, match=r"averaged weights taken \(`ema`\), not those of `model`"):
        found = weights.load(path)
    same(found.state_dict, network, 2)
    assert "averaged weights taken" in found.about["read"][0]
    assert main(["weights", "convert", str(path), "-o", str(tmp_path / "made")]) == 0
    assert "warning: " in capsys.readouterr().err
    same(weights.load(tmp_path / "made").state_dict, network, 2)
    with pytest.warns(weights.WeightsWarning):
        assert Engine.from_weights(path, "cpu", runtime="torch").weights.sha256 == found.sha256
    started, told = starting_network(NAME, str(path))
    same(started.state_dict(), network, 2)
    assert "averaged weights taken" in told
    shadow = dict(list(times(state, 2).items())[3:])  # as scripts that average only what learns
    torch.save({"model_ema": {"shadow": shadow, "decay": 0.99}, "state_dict": state}, path)
    with pytest.warns(weights.WeightsWarning, match="but for 3 that it lacks"):
        mixed = weights.load(path).state_dict
    assert all(torch.equal(mixed[name], shadow.get(name, state[name])) for name in state)


@pytest.mark.parametrize(
    ("ema", "why"),
    [
        (lambda net: {}, "in its `ema`, it is empty"),
        (lambda net: AveragedModel(net), "in its `ema`, it is a whole pickled module"),
        (
            lambda net: {"decay": 0.99, "shadow_params": list(net.parameters())},
            "in its `ema`, it has decay, shadow_params",
        ),
    ],
    ids=["empty", "module", "list"],
)
def test_averaged_weights_that_cannot_be_read_are_told(ema, why, network, tmp_path, capsys):
    path = tmp_path / "both.pth"
    torch.save({"ema": ema(network), "model": network.state_dict()}, path)
    with pytest.warns(weights.WeightsWarning, match=f"weights of `model` taken, no averaged ones: {why}"):
        found = weights.load(path)
    same(found.state_dict, network)
    assert why in found.about["read"][0]
    assert main(["weights", "convert", str(path), "-o", str(tmp_path / "made")]) == 0
    assert why in capsys.readouterr().err
    assert why in starting_network(NAME, str(path))[1]


@pytest.mark.parametrize("ema", [0.999, None, True])
def test_a_rate_of_averaging_is_no_averaged_weights(ema, network, tmp_path):
    torch.save({"ema": ema, "model": network.state_dict()}, tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(weights.load(tmp_path / "w.pth").state_dict, network)


def test_buffers_that_change_nothing_are_left_out_and_that_is_said(network, tmp_path):
    constants = {"mean": torch.tensor(network.PIXEL_MEAN).view(1, 3, 1, 1), "bn.num_batches_tracked": torch.tensor(7)}
    torch.save({**network.state_dict(), **constants, "total_ops": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.warns(weights.WeightsWarning) as told:
        same(weights.load(tmp_path / "w.pth").state_dict, network)
    said = " ".join(str(w.message) for w in told)
    assert all(name in said for name in ("bn.num_batches_tracked", "total_ops", "mean"))
    torch.save({**network.state_dict(), "mean": torch.zeros(3)}, tmp_path / "w.pth")  # this one changes all
    with pytest.raises(WeightsError, match=r"1 unknown \(mean\)"):
        weights.load(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["icmformer_swin_tiny224", "icmformer_hybrid_lite320"])
def test_other_families_load_too(name, tmp_path):
    """Of Swin also the parameters alone: its indices follow from them."""
    network = build_network(name)
    torch.save({"net": dict(torch.compile(network).named_parameters())}, tmp_path / "w.pth")
    found = weights.load(tmp_path / "w.pth")
    same(found.state_dict, network)
    if "hybrid" in name:  # a Swin's input size is in no tensor
        assert found.build().config == network.config


def refused(path):
    with pytest.raises(WeightsError) as told:
        weights.load(path)
    with pytest.raises(WeightsError) as also:
        starting_network(NAME, str(path))
    for error in (told, also):
        assert path.name in str(error.value)
    return str(told.value), str(also.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lambda net: net.head, r"torch\.save\(model\.state_dict\(\), FILE\)"),
        (lambda net: {"model": net.head, "epoch": 2}, r"torch\.save\(model\.state_dict\(\), FILE\)"),
        (lambda net: torch.optim.Adam(net.parameters()).state_dict(), "an optimiser alone"),
        (lambda net: {"optimizer": torch.optim.SGD(net.parameters(), 0.1).state_dict()}, "an optimiser without"),
        (lambda net: {"pytorch-lightning_version": "2.4", "state_dict": {}}, "state_dict"),
        (lambda net: {"state": {"network": {}}, "config": {}, "best": 1.0}, "training.export"),
        (lambda net: {"model": {"a": 1}}, "in its `model`"),
        (lambda net: 7, "it is a int"),
    ],
)
def test_what_holds_no_state_dict_is_told(content, text, network, tmp_path):
    torch.save(content(network), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=text):
        weights.load(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=text):
        starting_network(NAME, str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
        (b"", "empty"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x1f\x8b\x08\0\0\0", "gzip"),
    ],
)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_files_that_are_something_else_say_what(content, text, ending, tmp_path):
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    for told in refused(path):
        assert text in told


def test_a_file_cut_short_says_so(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[:100_000])
        for told in refused(path):
            assert "cut short" in told


def test_what_does_not_fit_is_named_with_its_shapes(network, tmp_path):
    state = network.state_dict()
    name, bias = "backbone.blocks.1.attn.proj.weight", "neck.down_16.0.bias"
    wrong = {**state, name: torch.zeros(5, 192), "aux.weight": torch.zeros(2)}
    del wrong[bias]
    torch.save({"model": wrong}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as told:
        weights.load(tmp_path / "w.pth")
    for text in (bias, "aux.weight", f"{name} has shape (5, 192), the network needs (192, 192)"):
        assert text in str(told.value)
    torch.save({"unet.conv.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"its tensors are called unet\.conv\.weight"):
        weights.load(tmp_path / "w.pth")
    wide = build_network({"family": "icmformer-vit", "img_size": 224, "embed_dim": 96, "depth": 8, "num_heads": 3})
    with pytest.raises(WeightsError, match=r"fc1\.weight is \(384, 96\) in the source and \(768, 192\)"):
        warm_start(build_network(NAME), {k: v for k, v in wide.state_dict().items() if "mlp" in k})


def test_values_that_are_not_finite_start_nothing(network):
    state = {**network.state_dict()}
    state["backbone.pos_embed"] = torch.full_like(state["backbone.pos_embed"], torch.nan)
    other = build_network(NAME)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match=r"not finite, in backbone\.pos_embed"):
        warm_start(other, state)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_only_the_state_dict_that_is_taken_is_read(tmp_path):
    """Not the optimiser's 64 MB beside it: they are seen from the archive's index alone."""
    small, large = torch.arange(1000.0), torch.zeros(2**24)
    torch.save({"model": {"a.b": small}, "optimizer": {"state": {0: large}}}, tmp_path / "w.pth")
    tracemalloc.start()
    try:
        file = TorchFile(tmp_path / "w.pth")
        found = find_state_dict(file.content, "w.pth").tensors
        assert torch.equal(file.read(found["a.b"]), small)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_network_that_is_not_registered_says_its_config(tmp_path):
    network = build_network(MINIATURE)
    torch.save({"state_dict": network.state_dict(), "config": MINIATURE}, tmp_path / "w.pth")
    assert weights.load(tmp_path / "w.pth").build().config == network.config
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="number of attention heads"):
        weights.load(tmp_path / "w.pth")
