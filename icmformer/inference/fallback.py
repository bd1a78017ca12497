"""The mask where the network finds nothing under a click: an annotator can correct a guess, but not nothing."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from icmformer.geometry import CleanUp
from icmformer.inference.probability_map import ProbabilityMap
from icmformer.runs import MaskRuns
from icmformer.types import Click

_SHARE = 0.5  # of the probability under the click: on clicks at the image's edge better than 0.7 and 0.9
_LEAST = 0.05  # probability under the click with which its surroundings are still more than noise
_SPOT = 1 / 100  # radius of a spot, of the image's longer side: what a click alone says


def best_part(found: ProbabilityMap, clicks: Sequence[Click], height: int, width: int) -> MaskRuns:
    """The likeliest part under the positive clicks.

    Args:
        found: The network's probabilities.
        clicks: All clicks, some of them positive.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        The mask, with a positive click on each part: where at least half of the probability under the clicks is found,
        and more than under any negative one; else a spot around each positive click.
    """
    places = {kind: [c.pixel(height, width) for c in clicks if c.positive == kind] for kind in (True, False)}
    under = {kind: [_at(found, place) for place in there] for kind, there in places.items()}
    peak = max(under[True])
    threshold = max(_SHARE * peak, *under[False], 0.0)
    if peak >= _LEAST and peak > threshold:
        return CleanUp(keep_clicked=True).tidied(found.over(threshold), clicks)
    return _spots(places[True], places[False], height, width)


def _at(found: ProbabilityMap, place: tuple[int, int]) -> float:
    return float(found.pick(np.array([place[0]]), np.array([place[1]]))[0, 0])


def _spots(
    positive: Sequence[tuple[int, int]], negative: Sequence[tuple[int, int]], height: int, width: int
) -> MaskRuns:
    """Disks around the positive clicks, which reach no negative one; at least the pixel that was clicked on."""
    largest = int(_SPOT * max(height, width))
    top, left = (max(min(places) - largest, 0) for places in zip(*positive, strict=True))
    bottom, right = (max(places) + largest for places in zip(*positive, strict=True))
    spots = np.zeros((min(bottom + 1, height) - top, min(right + 1, width) - left), np.uint8)
    for row, column in positive:
        nearest = min((np.hypot(row - r, column - c) for r, c in negative), default=np.inf)
        radius = int(min(_SPOT * max(height, width), max(nearest - 1, 0)))
        cv2.circle(spots, (column - left, row - top), radius, 1, -1)
    return MaskRuns.of(spots.view(bool), (height, width), top, left)
