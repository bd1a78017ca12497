"""A CVAT function as something to evaluate: it gets what CVAT sends and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icmformer.images.reading import LoadedImage
from icmformer.inference.roi import ROI, PixelClick, whole
from icmformer.serving.client import Ask, ServedImage
from icmformer.types import FloatMap
from training.evaluation.protocol import Predict, pixel_middles


def by_function(ask: Ask, image: LoadedImage) -> Predict:
    """The masks of a CVAT function, as probabilities of 0 and 1.

    Args:
        ask: Takes requests to it: `icmformer.serving.client.asker` of its address.
        image: What is clicked on.
    """
    served = ServedImage(image, ask)
    frame = whole(*image.pixels.shape[:2])

    def predict(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        return served.segment(pixel_middles(clicks)).astype(np.float32), frame

    return predict
