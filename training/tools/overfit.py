"""Trains a tiny network on five images, for `training.overfit`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data as skimage_data

from icmformer.images.masks import write_image
from icmformer.weights import load

from ..evaluation.benchmarks import load_benchmark
from ..evaluation.protocol import trace
from ..loop.checkpoints import CHECKPOINT, export
from ..loop.config import load_config
from ..loop.run import RunOptions, train

CONFIG = Path(__file__).parents[1] / "configs" / "overfit.yaml"
_PERSON = (
    "150,90 160,40 200,12 250,14 290,45 302,90 290,120 270,140 262,180 300,240 340,260 362,320 355,340 310,365 285,410 "
    "275,511 30,511 25,340 60,260 115,220 115,190 150,150 185,145 175,120"
)
_CAMERAMAN = (
    "0,250 20,235 60,160 110,125 155,108 170,80 205,65 245,80 270,115 255,150 240,195 225,205 290,250 300,280 245,310 "
    "205,295 140,380 150,430 150,511 0,511"
)


def overfit(out: Path, threads: int) -> dict[str, float] | None:
    """Trains on five images and clicks once on each.

    Args:
        out: Folder for images, run and weights; a run that it holds is deleted.
        threads: CPU threads.

    Returns:
        Each image's IoU after one click; None if a signal stopped the training.
    """
    write_images(out / "photos")
    run, weights = out / "run", out / "weights"
    shutil.rmtree(run, ignore_errors=True)  # a finished run would prove nothing
    if train(load_config(CONFIG), RunOptions(out, run, threads=threads)).signalled:
        return None
    export(run / CHECKPOINT, weights, weights.name, "fp32")
    network = load(weights).build()
    ious = {}
    for item in load_benchmark("folder", out / "photos"):
        image, truth = item.load()
        zoom = {"target_size": (network.config.img_size,) * 2}
        ious[item.name] = trace(network, image.pixels, truth, zoom, target_iou=None, max_clicks=1).ious[0]
    return ious


def write_images(folder: Path) -> None:
    """Writes the five images and their masks as `images/` and `masks/`."""
    data: Any = skimage_data  # its functions have no types
    coins, camera = (np.repeat(image()[..., None], 3, axis=2) for image in (data.coins, data.camera))
    pairs = {
        "astronaut": (data.astronaut(), _polygon((512, 512), _PERSON)),
        "cameraman": (camera, _polygon((512, 512), _CAMERAMAN)),
        "eye": (data.chelsea(), _ellipse((300, 451), (170, 115), (36, 33))),
        "cup": (data.coffee(), _ellipse((400, 600), (280, 205), (202, 180))),
        "coin": (coins, _ellipse((303, 384), (347, 187), (31, 31))),
    }
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, (image, mask) in pairs.items():
        write_image(folder / "images" / f"{name}.png", image)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask * 255)


def _polygon(shape: tuple[int, int], corners: str) -> NDArray[np.uint8]:
    """Fills a polygon given as an SVG's `points`: "x,y x,y ..."."""
    points = np.array([corner.split(",") for corner in corners.split()], np.int32)
    return np.asarray(cv2.fillPoly(np.zeros(shape, np.uint8), [points], 1), np.uint8)


def _ellipse(shape: tuple[int, int], centre: tuple[int, int], axes: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.ellipse(np.zeros(shape, np.uint8), centre, axes, 0, 0, 360, 1, -1), np.uint8)
