"""Draws docs/figures/prediction.png: one click, from the image to the mask.

python docs/figures/prediction.py [WEIGHTS]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from skimage import data

from icmformer import Click, Engine, LoadedImage
from icmformer.images.masks import overlay
from icmformer.inference.predictor import Prediction
from icmformer.inference.roi import ROI, PixelClick, crop, map_clicks
from icmformer.layers.clickmap import disk_maps
from icmformer.weights.serving_defaults import THRESHOLD

CLICKS = [PixelClick(120, 200, True), PixelClick(215, 150, True), PixelClick(60, 60, False)]


def main(weights: str) -> None:
    """Makes three clicks and draws the last one."""
    engine = Engine.from_weights(weights, profile="exact")
    image = LoadedImage.from_array(data.chelsea())
    predictions: list[Prediction] = []
    for count in range(1, len(CLICKS) + 1):
        last = predictions[-1] if predictions else None
        predictions.append(engine.predictor.step(image, last, CLICKS[:count]))
    before, prediction = predictions[-2:]
    roi, size = prediction.shown, prediction.patch.shape
    points = map_clicks(CLICKS, roi, size)
    disks = disk_maps(points, *size, radius=5 * size[0] / 224)[0].numpy()
    previous = crop(before.map.full(), roi, size)
    prompt = np.stack([previous * 0.6 + disks[1], previous * 0.6 + disks[0], previous * 0.6], axis=2).clip(0, 1)
    clicks = [Click(c.column + 0.5, c.row + 0.5, c.positive) for c in CLICKS]

    figure, axes = plt.subplots(1, 5, figsize=(17, 4.2), layout="constrained")
    nothing = np.zeros(image.pixels.shape[:2], bool)
    axes[0].imshow(overlay(image.pixels, nothing, clicks))
    axes[0].add_patch(frame(roi))
    axes[0].set_title("1  clicks and object ROI\naround the previous mask")
    axes[1].imshow((crop(image.pixels, roi, size) / 255).clip(0, 1))
    axes[1].set_title(f"2  image stream: the ROI at {size[0]} x {size[1]}\nencoded once, kept between clicks")
    axes[2].imshow(prompt)
    axes[2].set_title("3  prompt stream: previous mask,\npositive and negative disks")
    axes[3].imshow(prediction.patch, cmap="magma", vmin=0, vmax=1)
    axes[3].set_title("4  probabilities: the mean of this view\nand its mirror image")
    axes[4].imshow(overlay(image.pixels, prediction.map.over(THRESHOLD).to_mask(), clicks))
    axes[4].add_patch(frame(roi))
    axes[4].set_title(f"5  resized back, cut at {THRESHOLD};\nthe next click's previous mask")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)


def frame(roi: ROI) -> Rectangle:
    """The outline of an ROI."""
    corner = (roi.column_min, roi.row_min)
    return Rectangle(corner, roi.width - 1, roi.height - 1, fill=False, edgecolor="yellow", linewidth=2)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "starter")
