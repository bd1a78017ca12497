"""Every registered network builds and runs, and its parts obey the rules that the golden cases leave open."""

import pytest
import torch

from icmformer.errors import ConfigError, InputSizeError
from icmformer.layers.windows import allowed_sides, partition, plain_vit_window, reverse, shifted_window_mask
from icmformer.models import VARIANTS, SwinConfig, build_network, network_config
from icmformer.models.config import config_mapping

LARGE = ("huge", "large", "base", "small")
SMALL = [name for name in VARIANTS if not any(size in name for size in LARGE)]
MIDDLE = ["icmformer_vit_small448", "icmformer_swin_small224"]


def inputs(side, batch=1, clicks=3):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, side, side, generator=generator)
    points = torch.rand(batch, 2 * clicks, 3, generator=generator) * side
    points[:, -1] = -1
    return image, torch.rand(batch, 1, side, side, generator=generator), points


@pytest.mark.parametrize("name", SMALL + MIDDLE)
def test_a_variant_runs_forward_and_backward(name):
    network = build_network(name)
    network.train()
    logits = network(*inputs(224, batch=2))
    assert logits.shape == (2, 1, 224, 224)
    logits.mean().backward()
    without = {n for n, p in network.named_parameters() if p.grad is None}
    unused = ("cls_token", "fc_norm", "backbone.head", "up_conv", "patch_embed_coords")
    assert all(any(part in name for part in unused) for name in without)
    if not getattr(network.config, "published_extras", False):
        assert not without


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in SMALL + MIDDLE])
def test_a_large_variant_gives_the_right_shapes_on_the_meta_device(name):
    with torch.device("meta"):
        network = build_network(name)
        features = network.encode_image(torch.rand(1, 3, 448, 448))
        logits = network.decode(features, torch.rand(1, 1, 448, 448), torch.rand(1, 6, 3))
    assert logits.shape == (1, 1, 448, 448)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["icmformer_vit_base448", "icmformer_swin_base384", "icmformer_vit_huge448"])
def test_a_large_variant_runs_in_two_steps_as_in_one(name):
    network = build_network(name)
    image, prev_mask, points = inputs(448)
    with torch.inference_mode():
        whole = network(image, prev_mask, points)
        split = network.decode(network.encode_image(image), prev_mask, points)
    assert (whole - split).abs().max() <= 1e-5
    assert whole.std() > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_configs_survive_their_mapping(name):
    config = network_config(name)
    assert network_config(config_mapping(config)) == config


@pytest.mark.parametrize("name", SMALL)
def test_features_do_not_depend_on_the_prompt_and_serve_any(name):
    network = build_network(name)
    image, prev_mask, points = inputs(224)
    with torch.inference_mode():
        features = network.encode_image(image)
        first = network.decode(features, prev_mask, points)
        second = network.decode(features, torch.zeros_like(prev_mask), points.flip(1))
        assert torch.equal(first, network.decode(features, prev_mask, points))
    assert not torch.equal(first, second)
    assert features.nbytes == sum(t.nbytes for t in features.tensors)


@pytest.mark.parametrize("name", SMALL)
def test_samples_of_a_batch_do_not_see_each_other(name):
    network = build_network(name)
    image, prev_mask, points = inputs(224, batch=3)
    with torch.inference_mode():
        together = network(image, prev_mask, points)
        alone = torch.cat([network(image[i : i + 1], prev_mask[i : i + 1], points[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "patch", "window"),
    [(224, 16, 14), (448, 16, 14), (672, 16, 14), (512, 16, 16), (1024, 16, 16), (448, 14, 16), (320, 16, 20)],
)
def test_windows_share_a_side_evenly(side, patch, window):
    assert plain_vit_window(side // patch, patch) == window


@pytest.mark.parametrize("side", [560, 800, 208, 96])
def test_sides_that_windows_cannot_share_are_refused_with_those_that_work(side):
    with pytest.raises(InputSizeError, match="448"):
        build_network("icmformer_vit_tiny224")(*inputs(side))


def test_a_side_between_patches_is_refused():
    with pytest.raises(InputSizeError, match="multiple of the patch"):
        build_network("icmformer_vit_tiny224")(*inputs(450))


@pytest.mark.parametrize("side", allowed_sides(16, 512))
def test_all_allowed_sides_run(side):
    network = build_network("simpleclick_vit_tiny224")
    with torch.inference_mode():
        assert network(*inputs(side)).shape[-1] == side


def test_sides_may_differ():
    network = build_network("icmformer_vit_tiny224")
    image, prev_mask, points = inputs(448)
    with torch.inference_mode():
        assert network(image[:, :, :224], prev_mask[:, :, :224], points).shape == (1, 1, 224, 448)


def test_which_blocks_are_global():
    for name, blocks in (
        ("icmformer_vit_base448", [6, 12]),
        ("icmformer_vit_large448", [6, 12, 18, 24]),
        ("icmformer_vit_huge448", [8, 16, 24, 32]),
    ):
        config = network_config(name)
        assert [i for i in range(1, config.depth + 1) if i % config.global_every == 0] == blocks
        assert config.cross_depth < config.global_every  # every cross block is local


def test_windows_come_back_where_they_were():
    x = torch.randn(2, 12, 8, 5)
    windows = partition(x, 4, 2)
    assert windows.shape == (2 * 3 * 4, 8, 5)
    assert torch.equal(windows[1], x[0, :4, 2:4].reshape(8, 5))
    assert torch.equal(reverse(windows, 4, 2, 12, 8), x)


def test_shifted_windows_let_only_neighbours_attend():
    mask = shifted_window_mask(8, 8, 4, 2, torch.device("cpu"))
    assert mask.shape == (4, 16, 16)
    assert not mask[0].any()  # the first window holds neighbours only
    position = torch.arange(8).roll(-2)  # original row of each shifted row
    for window, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        rows, columns = position[top : top + 4], position[left : left + 4]
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).view(16, 2)
        close = ((where[:, None] - where[None]).abs() < 4).all(-1)
        assert torch.equal(mask[window] == 0, close)


def test_upsampling_heads_run():
    base = config_mapping(network_config("icmformer_vit_tiny224"))
    for upsample in ("x2", "x4"):
        with torch.inference_mode():
            assert build_network({**base, "upsample": upsample})(*inputs(224)).shape == (1, 1, 224, 224)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("resnet", "registered"),
        ({"family": "unet"}, "family"),
        ({}, "family"),
        (7, "name or a mapping"),
        ({"family": "icmformer-vit", "embed_dim": 100, "num_heads": 3}, "heads"),
        ({"family": "icmformer-vit", "depth": 10}, "depth"),
        ({"family": "icmformer-vit", "depht": 12}, "depht"),
        ({"family": "icmformer-vit", "patch_size": 15}, "patch_size"),
        ({"family": "icmformer-vit", "neck_out_dims": [1, 2]}, "4 integers"),
        ({"family": "icmformer-vit", "upsample": "x3"}, "upsample"),
        ({"family": "icmformer-vit", "embed_dim": True}, "embed_dim"),
        ({"family": "icmformer-swin", "depths": [2, 2, 2]}, "4 integers"),
    ],
)
def test_configs_that_cannot_work_are_refused(config, text):
    with pytest.raises(ConfigError, match=text):
        network_config(config)


def test_a_swin_takes_odd_sizes_and_refuses_tiny_ones():
    network = build_network("icmformer_swin_tiny224")
    assert isinstance(network.config, SwinConfig)
    image, prev_mask, points = inputs(224)
    with torch.inference_mode():
        assert network(image[..., :201, :133], prev_mask[..., :201, :133], points).shape == (1, 1, 201, 133)
        with pytest.raises(InputSizeError):
            network(image[..., :20, :20], prev_mask[..., :20, :20], points)
