import pytest
import torch

from icmformer.errors import WeightsError
from icmformer.models import build_network
from icmformer.weights import load, save
from icmformer.weights.warm_start import warm_start
from training.loop.initial_weights import starting_network

VIT = {
    "family": "icmformer-vit",
    "img_size": 448,
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 3,
    "neck_out_dims": [8, 8, 8, 8],
}
SWIN = {
    "family": "icmformer-swin",
    "embed_dim": 24,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 7,
}


def backbone_of(network):
    state = network.state_dict()
    return {
        k.removeprefix("backbone."): torch.randn_like(v)
        for k, v in state.items()
        if k.startswith("backbone.") and v.is_floating_point()
    }


def test_a_simpleclick_starts_all_of_an_icmformer_but_its_cross_blocks():
    sister, network = build_network({**VIT, "family": "simpleclick-vit"}), build_network(VIT)
    report = warm_start(network, {"state_dict": sister.state_dict()})
    assert set(report.loaded) == set(sister.state_dict())
    assert all(".blocks2." in name for name in report.fresh)
    assert report.fresh
    assert not report.unused
    for name, value in sister.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_an_mae_backbone_fits_with_its_positions_resized():
    small = build_network({**VIT, "img_size": 224})
    source = {k: v for k, v in backbone_of(small).items() if not k.startswith("blocks2")}
    source["norm.weight"] = torch.ones(48)
    source["decoder_embed.weight"] = torch.ones(3, 48)
    source["pos_embed"][:, 1:] = torch.arange(14.0).repeat_interleave(14)[None, :, None]  # row numbers
    source["pos_embed"][:, 0] = 77
    network = build_network(VIT)
    report = warm_start(network, {"model": source})
    assert report.resized == ("backbone.pos_embed",)
    assert set(report.unused) == {"backbone.norm.weight", "backbone.decoder_embed.weight"}
    positions = network.state_dict()["backbone.pos_embed"][0, :, 0]
    assert positions[0] == 77
    grid = positions[1:].view(28, 28)
    assert (grid - grid[:, :1]).abs().max() < 1e-4  # constant along each row
    assert torch.allclose(grid[4:24, 0], torch.arange(4, 24) / 2 - 0.25, atol=0.06)


def test_a_position_embedding_without_class_token_fits():
    network = build_network(VIT)
    source = backbone_of(network)
    source["pos_embed"] = torch.ones(1, 28 * 28, 48)
    warm_start(network, source)
    assert bool((network.state_dict()["backbone.pos_embed"][:, 1:] == 1).all())


def test_a_hybrid_starts_one_of_another_size():
    donor = build_network("icmformer_hybrid_lite320")
    network = build_network({"family": "icmformer-hybrid", "img_size": 224})
    report = warm_start(network, donor.state_dict())
    assert report.resized == ("backbone.pos_embed",)
    assert not report.fresh
    assert network.state_dict()["backbone.pos_embed"].shape == (1, 14 * 14, 192)


@pytest.mark.parametrize("naming", ["microsoft", "timm"])
def test_swin_backbones_of_both_namings_and_another_window_fit(naming):
    donor = build_network({**SWIN, "window_size": 12})
    source = {k: v for k, v in backbone_of(donor).items() if not k.startswith(("blocks2", "norm"))}
    if naming == "timm":
        source = {
            k if ".downsample." not in k else f"layers.{int(k.split('.')[1]) + 1}.{k.split('.', 2)[2]}": v
            for k, v in source.items()
        }
    network = build_network(SWIN)
    report = warm_start(network, {"model": source})
    assert len(report.resized) == 5
    assert all(name.endswith("relative_position_bias_table") for name in report.resized)
    assert not report.unused
    for stage in range(3):
        name = f"layers.{stage}.downsample.reduction.weight"
        expected = source[name] if naming == "microsoft" else source[f"layers.{stage + 1}.downsample.reduction.weight"]
        assert torch.equal(network.state_dict()[f"backbone.{name}"], expected)


class ReferenceLite(torch.nn.Module):
    """EfficientNet-Lite0 from torch's own convolutions and batch norms, in efficientnet-pytorch's naming."""

    STAGES = ((1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6), (3, 80, 3, 2, 6), (3, 112, 5, 1, 6))
    STAGES += ((4, 192, 5, 2, 6), (1, 320, 3, 1, 6))

    def __init__(self):
        super().__init__()
        self._conv_stem = torch.nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = torch.nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = torch.nn.ModuleList()
        width = 32
        for count, out, kernel, stride, expand in self.STAGES:
            for index in range(count):
                block, hidden = torch.nn.Module(), width * expand
                if expand > 1:
                    block._expand_conv = torch.nn.Conv2d(width, hidden, 1, bias=False)
                    block._bn0 = torch.nn.BatchNorm2d(hidden, eps=1e-3)
                step = stride if index == 0 else 1
                block._depthwise_conv = torch.nn.Conv2d(
                    hidden, hidden, kernel, step, kernel // 2, groups=hidden, bias=False
                )
                block._bn1 = torch.nn.BatchNorm2d(hidden, eps=1e-3)
                block._project_conv = torch.nn.Conv2d(hidden, out, 1, bias=False)
                block._bn2 = torch.nn.BatchNorm2d(out, eps=1e-3)
                block.skips = step == 1 and width == out
                self._blocks.append(block)
                width = out

    def forward(self, x):
        x = torch.nn.functional.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for block in self._blocks:
            y = torch.nn.functional.relu6(block._bn0(block._expand_conv(x))) if hasattr(block, "_bn0") else x
            y = torch.nn.functional.relu6(block._bn1(block._depthwise_conv(y)))
            y = block._bn2(block._project_conv(y))
            x = x + y if block.skips else y
            maps.append(x)
        return [maps[i] for i in (2, 4, 10, 15)]


def test_an_efficientnet_trunk_computes_what_it_computed_with_its_batch_norms():
    torch.manual_seed(0)
    reference = ReferenceLite().eval()
    for norm in (m for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.3, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.2, 0.2)
    network = build_network("icmformer_hybrid_lite320")
    source = {**reference.state_dict(), "_conv_head.weight": torch.ones(1280, 320, 1, 1), "_fc.bias": torch.ones(1000)}
    report = warm_start(network, source)
    trunk = {n for n, _ in network.named_parameters() if ".trunk." in n}
    assert set(report.loaded) == trunk
    assert not set(report.fresh) & trunk
    x = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        for ours, theirs in zip(network.backbone.trunk(x), reference(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_another_architecture_is_refused_and_nothing_changes():
    network = build_network(VIT)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for source in ({"conv1.weight": torch.ones(3)}, backbone_of(build_network({**VIT, "embed_dim": 96})), {}):
        with pytest.raises(WeightsError, match="another architecture"):
            warm_start(network, source)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_file_of_bytes_starts_a_network_as_its_folder_does(tmp_path):
    starter = load("starter")
    folder = save(tmp_path / "bytes", starter.config, starter.state_dict, "bytes", stored="int8")
    by_file, told = starting_network(starter.config, str(folder / "model.safetensors"))
    assert " 0 fresh; 0 of the source unused" in told
    expected = load(folder).state_dict
    assert all(torch.equal(value, expected[name]) for name, value in by_file.state_dict().items())
