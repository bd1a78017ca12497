"""DINO, DINOv2 and AugReg start networks: names and shapes as published, values against forward passes written here."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from icmformer.errors import WeightsError
from icmformer.models import build_network
from icmformer.weights.vit_backbones import CENTRED, resample_patches
from icmformer.weights.warm_start import warm_start
from tests.weights.test_warm_start import ReferenceLite
from training.loop.initial_weights import starting_network

DIM, HEADS, DEPTH = 48, 3, 4
SMALL = {
    "family": "icmformer-vit",
    "img_size": 224,
    "embed_dim": DIM,
    "depth": DEPTH,
    "num_heads": HEADS,
    "neck_out_dims": [8, 8, 8, 8],
}


def layout(width, depth, patch, tokens, *, scaled=False, extra=()):
    """Parameter name -> shape of a ViT as DINO and DINOv2 publish it."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for n in range(depth):
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in linear.items():
            shapes |= {f"blocks.{n}.{name}.weight": shape, f"blocks.{n}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{n}.{name}"] = (width,)
        if scaled:
            shapes |= {f"blocks.{n}.ls1.gamma": (width,), f"blocks.{n}.ls2.gamma": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return shapes | dict(extra)


def dinov2(width, depth, patch=14, tokens=1370):
    return layout(width, depth, patch, tokens, scaled=True, extra={"mask_token": (1, width)})


def values(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


def rest(report):
    """Of the source, what found no place; of the network, what is neither its own nor filled."""
    new = ("backbone.blocks2.", "backbone.head.", "backbone.fc_norm.", "patch_embed_coords.", "neck.", "head.")
    return set(report.unused), {name for name in report.fresh if not name.startswith(new)}


RESAMPLED = {"pos_embed", "patch_embed.proj.weight"}


@pytest.mark.parametrize(
    ("shapes", "network", "resized", "unused"),
    [
        (layout(768, 12, 16, 197), "icmformer_vit_base448", {"pos_embed"}, set()),
        (dinov2(768, 12), "simpleclick_vit_base448", RESAMPLED, {"mask_token"}),
        (dinov2(384, 12), "icmformer_vit_small448", RESAMPLED, {"mask_token", "cls_token"}),
        (
            dinov2(384, 12) | {"register_tokens": (1, 4, 384)},
            "icmformer_vit_small448",
            RESAMPLED,
            {"mask_token", "cls_token", "register_tokens"},
        ),
    ],
    ids=["dino-b", "dinov2-b", "dinov2-s", "dinov2-s-registers"],
)
def test_a_published_layout_fills_every_block(shapes, network, resized, unused):
    report = warm_start(build_network(network), {name: torch.zeros(shape) for name, shape in shapes.items()})
    left, bare = rest(report)
    assert bare == set()
    assert set(report.resized) == {f"backbone.{name}" for name in resized}
    assert left == {f"backbone.{name}" for name in {*unused, "norm.weight", "norm.bias"}}
    assert report.notes == (("LayerScale folded into 24 layers",) if "mask_token" in shapes else ())


def test_a_huge_network_takes_patches_of_14_as_they_are():
    network = build_network({**SMALL, "patch_size": 14})
    source = values(dinov2(DIM, DEPTH))
    report = warm_start(network, source)
    assert report.resized == ("backbone.pos_embed",)  # 37 x 37 to 16 x 16
    assert torch.equal(network.backbone.patch_embed.proj.weight, source["patch_embed.proj.weight"])


def reference_block(x, state, prefix):
    """One pre-norm ViT block by its definition; what it adds is scaled where the state dict has factors."""

    def linear(name, y):
        return F.linear(y, state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"])

    def norm(name, y):
        return F.layer_norm(y, y.shape[-1:], state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"], 1e-6)

    q, k, v = linear("attn.qkv", norm("norm1", x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    x = x + state.get(f"{prefix}ls1.gamma", 1) * linear("attn.proj", attention.transpose(1, 2).flatten(2))
    return x + state.get(f"{prefix}ls2.gamma", 1) * linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))


@torch.inference_mode()
def test_blocks_with_layer_scale_compute_what_they_computed():
    source = values(dinov2(DIM, DEPTH))
    network = build_network(SMALL)
    warm_start(network, source)
    x = expected = torch.randn(2, 30, DIM)
    for number, block in enumerate(network.backbone.blocks):
        x, expected = block(x, 1), reference_block(expected, source, f"blocks.{number}.")
    unscaled = {name: value for name, value in source.items() if ".ls" not in name}
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    assert (reference_block(x, unscaled, "blocks.0.") - reference_block(x, source, "blocks.0.")).abs().max() > 0.1


def test_a_vit_with_swiglu_is_refused():
    source = values(layout(DIM, DEPTH, 14, 1370, scaled=True))
    for name in [name for name in source if ".mlp." in name]:
        source[name.replace("fc1", "w12").replace("fc2", "w3")] = source.pop(name)
    with pytest.raises(WeightsError, match="another architecture"):
        warm_start(build_network(SMALL), source)


def resized(patches, side):
    """Patches (..., h, w) resized by Pillow."""
    flat = [
        np.asarray(Image.fromarray(patch).resize((side, side), Image.Resampling.BICUBIC))
        for patch in patches.flatten(0, -3).numpy()
    ]
    return torch.from_numpy(np.stack(flat)).view(*patches.shape[:-2], side, side)


def test_a_larger_kernel_answers_to_enlarged_patches_as_the_old_one_did():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(5, 3, 14, 14, generator=generator)
    patches = torch.randn(20, 3, 14, 14, generator=generator)
    answers = F.conv2d(resized(patches, 16), resample_patches(kernel, 16, 16))
    torch.testing.assert_close(answers, F.conv2d(patches, kernel), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), [(16, 14), (16, 8), (14, 16)])
def test_a_kernel_is_the_least_squares_solution_of_least_norm(old, new):
    kernel = torch.randn(2, 3, old, old, generator=torch.Generator().manual_seed(0))
    pixels = torch.eye(old * old).view(-1, 1, old, old)
    flat = kernel.flatten(2).flatten(0, 1).T.numpy()
    expected = np.linalg.lstsq(resized(pixels, new).flatten(1).numpy(), flat, rcond=1e-5)[0]
    resampled = resample_patches(kernel, new, new).flatten(2).flatten(0, 1).T.numpy()
    np.testing.assert_allclose(resampled, expected, rtol=1e-3, atol=1e-3)


def test_a_kernel_is_resampled_as_timm_does_it():
    resample = pytest.importorskip("timm.layers", exc_type=ImportError).resample_patch_embed
    kernel = torch.randn(4, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resample_patches(kernel, 16, 16), resample(kernel, [16, 16]), rtol=1e-3, atol=1e-3)


AUGREG = layout(DIM, DEPTH, 16, 197)


def tokens_of(network, image):
    return network.backbone.patch_embed(network.normalise(image))


@torch.inference_mode()
def test_tokens_of_augreg_weights_are_those_of_centred_pixels(tmp_path):
    source = values(AUGREG)
    save_file(source, tmp_path / "vit.safetensors")
    image = torch.rand(2, 3, 224, 224)
    expected = F.conv2d(
        image * 2 - 1, source["patch_embed.proj.weight"], source["patch_embed.proj.bias"], stride=16
    ).permute(0, 2, 3, 1)
    network, told = starting_network(SMALL, f"augreg:{tmp_path / 'vit.safetensors'}")
    torch.testing.assert_close(tokens_of(network, image), expected, rtol=1e-4, atol=1e-4)
    assert "patch embedding converted from pixels of mean 0.5 and standard deviation 0.5" in told
    assert "ImageNet's" not in told
    plain, told = starting_network(SMALL, str(tmp_path / "vit.safetensors"))
    assert torch.equal(plain.backbone.patch_embed.proj.weight, source["patch_embed.proj.weight"])
    assert "taken to be normalised by ImageNet's mean and standard deviation" in told
    assert "augreg:FILE" in told


@torch.inference_mode()
def test_what_timm_says_beside_its_file_counts(tmp_path):
    source = values(AUGREG)
    save_file(source, tmp_path / "model.safetensors")
    given = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit", "pretrained_cfg": given}))
    network, told = starting_network(SMALL, str(tmp_path / "model.safetensors"))
    assert "mean 0.5, 0.4, 0.3 and standard deviation 0.5, 0.25, 0.2" in told
    image = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(given[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    expected = F.conv2d(
        (image - mean) / std, source["patch_embed.proj.weight"], source["patch_embed.proj.bias"], stride=16
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(tokens_of(network, image), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(WeightsError, match="another mean and std"):
        starting_network(SMALL, f"augreg:{tmp_path / 'model.safetensors'}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        starting_network(SMALL, str(tmp_path / "model.safetensors"))


def test_augreg_is_said_of_a_plain_backbone_only(tmp_path):
    whole = build_network(SMALL)
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    with pytest.raises(WeightsError, match="whole network"):
        starting_network(SMALL, f"augreg:{tmp_path / 'whole.safetensors'}")
    with pytest.raises(WeightsError, match="before a backbone's file"):
        starting_network(SMALL, "augreg:starter")


def flax_arrays(side=14, patch=16):
    """A ViT in the naming of Google's vision_transformer."""
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return (rng.standard_normal(shape) / math.sqrt(shape[0])).astype(np.float32)

    arrays = {"cls": drawn(1, 1, DIM), "Transformer/posembed_input/pos_embedding": drawn(1, side * side + 1, DIM)}
    arrays |= {"embedding/kernel": drawn(patch, patch, 3, DIM), "embedding/bias": drawn(DIM)}
    arrays |= {"Transformer/encoder_norm/scale": drawn(DIM), "Transformer/encoder_norm/bias": drawn(DIM)}
    arrays |= {"head/kernel": drawn(DIM, 7), "head/bias": drawn(7), "pre_logits/kernel": drawn(DIM, DIM)}
    for n in range(DEPTH):
        block = f"Transformer/encoderblock_{n}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            arrays |= {f"{block}/{norm}/scale": drawn(DIM), f"{block}/{norm}/bias": drawn(DIM)}
        attention, head = f"{block}/MultiHeadDotProductAttention_1", DIM // HEADS
        for part in ("query", "key", "value"):
            arrays[f"{attention}/{part}/kernel"] = drawn(DIM, HEADS, head)
            arrays[f"{attention}/{part}/bias"] = drawn(HEADS, head)
        arrays |= {f"{attention}/out/kernel": drawn(HEADS, head, DIM), f"{attention}/out/bias": drawn(DIM)}
        mlp = f"{block}/MlpBlock_3"
        arrays |= {f"{mlp}/Dense_0/kernel": drawn(DIM, 4 * DIM), f"{mlp}/Dense_0/bias": drawn(4 * DIM)}
        arrays |= {f"{mlp}/Dense_1/kernel": drawn(4 * DIM, DIM), f"{mlp}/Dense_1/bias": drawn(DIM)}
    return arrays


def flax_block(x, arrays, number):
    """An encoder block as Flax computes it: sums over named axes, in float64."""
    block = f"Transformer/encoderblock_{number}/"
    a = {name.removeprefix(block): value.astype(np.float64) for name, value in arrays.items() if name.startswith(block)}

    def norm(name, y):
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        return y * a[f"{name}/scale"] + a[f"{name}/bias"]

    y, mha = norm("LayerNorm_0", x), "MultiHeadDotProductAttention_1"
    q, k, v = (
        np.einsum("td,dhk->thk", y, a[f"{mha}/{part}/kernel"]) + a[f"{mha}/{part}/bias"]
        for part in ("query", "key", "value")
    )
    scores = np.exp(np.einsum("qhk,thk->hqt", q, k) / math.sqrt(DIM // HEADS))
    mixed = np.einsum("hqt,thk->qhk", scores / scores.sum(-1, keepdims=True), v)
    x = x + np.einsum("qhk,hkd->qd", mixed, a[f"{mha}/out/kernel"]) + a[f"{mha}/out/bias"]
    hidden = norm("LayerNorm_2", x) @ a["MlpBlock_3/Dense_0/kernel"] + a["MlpBlock_3/Dense_0/bias"]
    hidden *= 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return x + hidden @ a["MlpBlock_3/Dense_1/kernel"] + a["MlpBlock_3/Dense_1/bias"]


@torch.inference_mode()
def test_googles_arrays_compute_what_flax_computes(tmp_path):
    arrays = flax_arrays()
    np.savez(tmp_path / "B_16.npz", **arrays)
    network, told = starting_network(SMALL, str(tmp_path / "B_16.npz"))
    assert "converted from pixels of mean 0.5" in told
    image = torch.rand(1, 3, 224, 224)
    centred = image[0].permute(1, 2, 0).double().numpy() * 2 - 1
    patches = centred.reshape(14, 16, 14, 16, 3)
    expected = np.einsum("rpcqi,pqid->rcd", patches, arrays["embedding/kernel"]).reshape(196, DIM)
    expected += arrays["embedding/bias"] + arrays["Transformer/posembed_input/pos_embedding"][0, 1:]
    tokens = (tokens_of(network, image) + network.backbone.position(14, 14)).flatten(1, 2)
    np.testing.assert_allclose(tokens[0], expected, rtol=1e-4, atol=1e-4)
    for number, block in enumerate(network.backbone.blocks):
        tokens, expected = block(tokens, 1), flax_block(expected, arrays, number)
    np.testing.assert_allclose(tokens[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("broken", ["cut", "objects", "others"])
def test_other_arrays_are_refused(tmp_path, broken):
    path = tmp_path / "x.npz"
    arrays = flax_arrays()
    if broken == "objects":
        arrays["embedding/bias"] = np.array([{"a": 1}], dtype=object)
    elif broken == "others":
        del arrays["cls"]
    np.savez(path, **arrays)
    if broken == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read as a ViT of Google's"):
        starting_network(SMALL, str(path))


def test_a_trunk_of_convolutions_cannot_be_converted():
    network, source = build_network("icmformer_hybrid_lite320"), ReferenceLite().state_dict()
    with pytest.raises(WeightsError, match="patch embedding"):
        warm_start(network, source, CENTRED)
