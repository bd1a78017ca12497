"""CVAT's run-length encoding of masks: the `points` of a mask shape."""

from __future__ import annotations

import cv2
import numpy as np

from icmformer.runs import MaskRuns

_MOST_SHAPES = 20  # of a reply with a shape for each part: each becomes an object of its own in the page


def encode_shape(mask: MaskRuns) -> list[int]:
    """Encodes a mask for CVAT's `points`.

    Returns:
        Run lengths over the rows of the bounding box, the first of background; then left, top, right, bottom,
        inclusive. Nothing for an empty mask.
    """
    if mask.box is None:
        return []
    top, bottom, left, right = mask.box
    places = np.stack(mask.within(), axis=1).ravel()  # where the line of the box goes into the mask and out of it
    lengths: list[int] = np.diff(places, prepend=0, append=(bottom + 1 - top) * (right + 1 - left)).tolist()
    return [*(lengths if lengths[-1] else lengths[:-1]), left, top, right, bottom]


def encode_parts(mask: MaskRuns) -> list[list[int]]:
    """Encodes each connected part of a mask, pixels that touch at corners counting as connected.

    Returns:
        The form of `encode_shape` for each part, largest first. Of more than 20 parts the last entry holds all from the
        20th on, so that nothing is lost. Nothing for an empty mask.
    """
    if mask.box is None:
        return []
    above, _, before, _ = mask.box
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.crop().view(np.uint8), connectivity=8)
    largest_first = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")
    place = np.zeros(count, np.int32)  # label -> which entry, from 1; the ground is 0
    place[largest_first] = np.minimum(np.arange(count - 1), _MOST_SHAPES - 1) + 1
    entries = []
    for entry in range(1, int(place.max()) + 1):
        boxes = stats[place == entry]
        left, top = (int(boxes[:, side].min()) for side in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP))
        right = int((boxes[:, cv2.CC_STAT_LEFT] + boxes[:, cv2.CC_STAT_WIDTH]).max())
        bottom = int((boxes[:, cv2.CC_STAT_TOP] + boxes[:, cv2.CC_STAT_HEIGHT]).max())
        part = place[labels[top:bottom, left:right]] == entry
        entries.append(encode_shape(MaskRuns.of(part, mask.size, above + top, before + left)))
    return entries


def encode_mask(mask: MaskRuns, parts: bool) -> list[list[int]]:
    """A mask as shapes: one for each part, or one of all; none for an empty mask."""
    if parts:
        return encode_parts(mask)
    points = encode_shape(mask)
    return [points] if points else []
