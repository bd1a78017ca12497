"""A CVAT function as something to evaluate: it gets what CVAT sends and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icmformer.images.reading import LoadedImage
from icmformer.inference.roi import ROI, PixelClick, whole
from icmformer.serving.client import Ask, ServedImage
from icmformer.types import Click, FloatMap
from training.evaluation.protocol import Answerer


def answered_by(ask: Ask, image: LoadedImage) -> Answerer:
    """Clicks answered by a function.

    Args:
        ask: Takes requests to it: `icmformer.serving.client.asker` of its address.
        image: What is clicked on.

    Returns:
        See `Answerer`; masks come as probabilities of 0 and 1.
    """
    served = ServedImage(image, ask)
    height, width = image.pixels.shape[:2]

    def answer(clicks: Sequence[PixelClick]) -> tuple[FloatMap, ROI]:
        middles = [Click(c.column + 0.5, c.row + 0.5, c.positive) for c in clicks]
        return served.segment(middles).astype(np.float32), whole(height, width)

    return answer
