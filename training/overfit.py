"""Is the training sound? Trains a tiny network on five photos until it knows them: `python -m training.overfit`.

A loop, a loss or a click sampler that is wrong does not get there. The photos are scikit-image's, their outlines drawn
by hand; minutes on a laptop's CPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from icmformer import IcmformerError
from icmformer.images.masks import write_image
from icmformer.weights import load
from training import train
from training.evaluation.benchmarks import load_benchmark
from training.evaluation.protocol import trace
from training.export import main as export

CONFIG = Path(__file__).parent / "configs" / "overfit.yaml"
ENOUGH = 0.95
_PERSON = (
    "150,90 160,40 200,12 250,14 290,45 302,90 290,120 270,140 262,180 300,240 340,260 362,320 355,340 310,365 285,410 "
    "275,511 30,511 25,340 60,260 115,220 115,190 150,150 185,145 175,120"
)
_CAMERAMAN = (
    "0,250 20,235 60,160 110,125 155,108 170,80 205,65 245,80 270,115 255,150 240,195 225,205 290,250 300,280 245,310 "
    "205,295 140,380 150,430 150,511 0,511"
)


def _polygon(shape: tuple[int, int], corners: str) -> NDArray[np.uint8]:
    """Fills a polygon given as an SVG's `points`: "x,y x,y ..."."""
    points = np.array([corner.split(",") for corner in corners.split()], np.int32)
    return cv2.fillPoly(np.zeros(shape, np.uint8), [points], 1)


def _ellipse(shape: tuple[int, int], centre: tuple[int, int], axes: tuple[int, int]) -> NDArray[np.uint8]:
    return cv2.ellipse(np.zeros(shape, np.uint8), centre, axes, 0, 0, 360, 1, -1)


def write_photos(folder: Path) -> None:
    """Writes the five photos and their masks as `images/` and `masks/`."""
    coins = np.repeat(data.coins()[..., None], 3, axis=2)
    camera = np.repeat(data.camera()[..., None], 3, axis=2)
    pairs = {
        "astronaut": (data.astronaut(), _polygon((512, 512), _PERSON)),
        "cameraman": (camera, _polygon((512, 512), _CAMERAMAN)),
        "eye": (data.chelsea(), _ellipse((300, 451), (170, 115), (36, 33))),
        "cup": (data.coffee(), _ellipse((400, 600), (280, 205), (202, 180))),
        "coin": (coins, _ellipse((303, 384), (347, 187), (31, 31))),
    }
    for name, (photo, mask) in pairs.items():
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        write_image(folder / "images" / f"{name}.png", photo)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask * 255)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.overfit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"), help="folder for everything (runs/overfit)")
    parser.add_argument("--threads", default="2", help="CPU threads")
    args = parser.parse_args(argv)
    try:
        write_photos(args.out / "photos")
        run, made = args.out / "run", args.out / "weights"
        shutil.rmtree(run, ignore_errors=True)  # a finished run would prove nothing
        options = ["--data-root", str(args.out), "--out", str(run), "--threads", args.threads]
        if (code := train.main([str(CONFIG), *options])) or (
            code := export([str(run), "-o", str(made), "--store", "fp32"])
        ):
            return code
        weights = load(made)
        network = weights.build()
        ious = {}
        for item in load_benchmark("folder", args.out / "photos"):
            image, truth = item.load()
            zoom = {"target_size": (network.config.img_size,) * 2}
            ious[item.name] = trace(network, image.pixels, truth, zoom, target_iou=None, max_clicks=1).ious[0]
    except (IcmformerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, iou in ious.items():
        print(f"{name:<12} IoU after one click {iou:.3f}")
    known = min(ious.values()) > ENOUGH
    print("the network knows its photos" if known else f"NOT learned: an IoU of {ENOUGH} is not reached everywhere")
    return 0 if known else 1


if __name__ == "__main__":
    sys.exit(main())
