"""Dry runs of the paper's configs on miniatures of their data, and the published grouping."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from icmformer.models import meta_network
from tests.conftest import ROOT
from tests.training.data.coco_lvis_sets import IMAGES, write_community
from training.data.build_coco_lvis import main as build
from training.data.sources import open_images
from training.loop.config import OptimConfig, load_config, stages
from training.loop.optimiser import learning_rate, parameter_groups
from training.loop.plan import forward_flops
from training.train import main

PAPER = sorted((ROOT / "training" / "configs" / "paper").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """COCO+LVIS, SBD and VOC, two images each, in their layouts."""
    root = tmp_path_factory.mktemp("sets")
    community = write_community(root / "community", IMAGES)
    where = ["--community", str(community), "--images", str(community / "images"), "--out", str(root / "coco_lvis")]
    assert build([*where, "--jobs", "1"]) == 0
    labels = np.zeros((40, 50), np.uint8)
    labels[5:20, 5:25], labels[10:30, 30:45] = 1, 2
    for folder in ("sbd/img", "sbd/inst", "voc/JPEGImages", "voc/SegmentationObject", "voc/ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in ("a", "b"):
        for folder in ("sbd/img", "voc/JPEGImages"):
            Image.fromarray(np.repeat(labels[..., None] * 90, 3, 2)).save(root / folder / f"{name}.jpg")
        instances = np.empty((1, 1), [("Segmentation", object)])
        instances[0, 0]["Segmentation"] = labels
        savemat(root / "sbd" / "inst" / f"{name}.mat", {"GTinst": instances})
        void = labels.copy()
        void[:, :2] = 255
        picture = Image.fromarray(void, "P")
        picture.putpalette([n // 3 for n in range(768)])
        picture.save(root / "voc" / "SegmentationObject" / f"{name}.png")
    (root / "sbd" / "train.txt").write_text("a\nb\n")
    (root / "voc" / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    return root, labels


def test_sbd_and_voc_are_read_as_published(data):
    root, labels = data
    images = open_images(root, ["sbd", "voc"])
    assert [r.set for r in images.records] == ["sbd", "sbd", "voc"]
    np.testing.assert_array_equal(images.load(1)[1], labels)
    np.testing.assert_array_equal(images.load(2)[1][:, 2:], labels[:, 2:])
    assert (images.load(2)[1][:, :2] == 255).all()


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_every_paper_config_passes_a_dry_run(data, path, capsys):
    assert main([str(path), "--data-root", str(data[0]), "--dry-run"]) == 0
    told = capsys.readouterr().out
    config = load_config(path)
    assert f"{config.network}, " in told
    assert "\nrecipe    published\n" in told
    assert "2 images" in told
    assert f"{config.samples:,} samples at {config.size} x {config.size}" in told
    assert "GPU-hours at 150 TFLOP/s" in told


def test_there_is_a_config_for_each_published_network_and_set():
    networks = {path.stem for path in PAPER}
    for family, sizes in (
        ("icmformer_vit", ("base448", "large448", "huge448")),
        ("icmformer_swin", ("base384", "small224")),
    ):
        for size in sizes:
            assert {f"{family}_{size}_{data}" for data in ("coco_lvis", "sbd")} <= networks
    assert len(PAPER) == 16


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_the_ranges_are_the_published_ones(path):
    config = load_config(path)
    augment, sbd = config.augment, path.stem.endswith("_sbd")
    assert augment.resize == ((0.75, 1.25) if sbd or "swin" in path.stem else (0.75, 1.4))
    assert (augment.min_area, augment.keep_background) == ((80, 0.01) if sbd else (1000, 0.05))
    assert (augment.turns, augment.tilt) == ((True, 3) if sbd else (False, 0))
    assert (augment.brightness, augment.contrast, augment.rgb_shift) == ((-0.25, 0.25), (-0.15, 0.4), 10)
    assert (config.data.merge, config.data.stuff) == (0.15, 0.3)
    points = config.points
    assert (points.max_points, points.erode, points.erode_rounds, points.negatives) == (24, 0.9, 3, (0.1, 0.4, 0.5))
    assert (config.optim.lr, config.optim.betas, config.optim.weight_decay) == (5e-5, (0.9, 0.999), 0)
    assert (config.optim.clip, config.optim.ema, config.dropout) == (None, 0, 0.1)


def test_a_plan_tells_the_projects_own_recipe(tmp_path, capsys):
    assert main([str(ROOT / "training/configs/starter.yaml"), "--data-root", str(tmp_path), "--dry-run"]) == 2
    assert "\nrecipe    own\n" in capsys.readouterr().out


def test_the_schedule_is_the_published_one():
    (stage,) = stages(load_config(ROOT / "training/configs/paper/icmformer_vit_base448_coco_lvis.yaml"))
    epoch, optim, total = 30_000, stage.config.optim, stage.until
    assert total == 85 * epoch
    assert learning_rate(optim, 80 * epoch - 100, total) == pytest.approx(5e-5)
    assert learning_rate(optim, 80 * epoch + 100, total) == pytest.approx(5e-6)
    assert (stage.config.batch, stage.config.max_rounds, stage.config.points.gamma) == (32, 3, 0.8)


def test_the_cost_of_a_pass_is_that_of_its_matrix_products():
    """Linear layers, attention and convolutions of a plain ViT, counted by hand for its blocks; the rest is little."""
    network = meta_network("simpleclick_vit_base448")
    tokens, dim, depth = 28 * 28, 768, 12
    linear = depth * 2 * tokens * dim * (3 * dim + dim + 8 * dim)
    windows = 4 * 2 * 2 * tokens * 196 * dim * (depth - 2) // 4 + 2 * 2 * 2 * tokens * tokens * dim
    counted = forward_flops(network, 448)
    assert linear + windows < counted < 1.35 * (linear + windows)


def test_data_that_is_not_there_is_told(tmp_path, capsys):
    assert main([str(PAPER[0]), "--data-root", str(tmp_path), "--dry-run"]) == 2
    told = capsys.readouterr()
    assert "coco_lvis" in told.err
    assert "GPU-hours" in told.out  # what it will cost is told all the same
    assert main([str(PAPER[0]), "--data-root", str(tmp_path)]) == 2
    assert "--out is needed" in capsys.readouterr().err


def test_the_published_grouping_leaves_the_clicks_out_and_treats_cross_blocks_as_blocks():
    network = meta_network("icmformer_vit_tiny224")
    rates = {}
    for grouping in ("corrected", "published"):
        groups = parameter_groups(network, OptimConfig(layer_decay=0.75, grouping=grouping))
        known = {id(p): group["lr_factor"] for group in groups for p in group["params"]}
        rates[grouping] = {name: known.get(id(p)) for name, p in network.named_parameters()}
    depth = len(network.backbone.blocks)
    for name, rate in rates["published"].items():
        if name.startswith("patch_embed_coords."):
            assert rate is None
            assert rates["corrected"][name] == 1
        elif name.startswith("backbone.blocks"):  # the official rule: number of the block, counted from 1
            expected = 0.75 ** (depth + 1 - (int(name.split(".")[2]) + 1))
            assert rate == pytest.approx(expected), name
        elif name.startswith(("backbone.pos_embed", "backbone.patch_embed.")):
            assert rate == pytest.approx(0.75 ** (depth + 1)), name
        elif name.startswith(("neck.", "head.")):
            assert rate == 1
    cross = [n for n in rates["corrected"] if n.startswith("backbone.blocks2.")]
    assert cross
    assert all(rates["corrected"][n] == 1 for n in cross)
