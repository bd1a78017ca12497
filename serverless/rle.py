"""CVAT's run-length encoding of masks: the `points` of a mask shape."""

from __future__ import annotations

import cv2
import numpy as np

from icmformer.types import BoolMask

_MOST_SHAPES = 20  # of a reply with a shape for each part: each becomes an object of its own in the page


def encode_shape(mask: BoolMask) -> list[int]:
    """Encodes an (H, W) bool mask for CVAT's `points`.

    Returns:
        Run lengths over the rows of the bounding box, the first of background; then left, top, right, bottom,
        inclusive. Nothing for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    flat = mask[top : bottom + 1, left : right + 1].ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [*([0] if flat[0] else []), *lengths, left, top, right, bottom]


def encode_parts(mask: BoolMask) -> list[list[int]]:
    """Encodes each connected part of an (H, W) bool mask, pixels that touch at corners counting as connected.

    Returns:
        The form of `encode_shape` for each part, largest first. Of more than 20 parts the last entry holds all from the
        20th on, so that nothing is lost. Nothing for an empty mask.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    largest_first = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")
    place = np.zeros(count, np.int32)  # label -> which entry, from 1; the ground is 0
    place[largest_first] = np.minimum(np.arange(count - 1), _MOST_SHAPES - 1) + 1
    entries = []
    for entry in range(1, int(place.max()) + 1):
        boxes = stats[place == entry]
        left, top = (int(boxes[:, side].min()) for side in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP))
        right = int((boxes[:, cv2.CC_STAT_LEFT] + boxes[:, cv2.CC_STAT_WIDTH]).max())
        bottom = int((boxes[:, cv2.CC_STAT_TOP] + boxes[:, cv2.CC_STAT_HEIGHT]).max())
        *lengths, x1, y1, x2, y2 = encode_shape(place[labels[top:bottom, left:right]] == entry)
        entries.append([*lengths, x1 + left, y1 + top, x2 + left, y2 + top])
    return entries


def encode_mask(mask: BoolMask, parts: bool) -> list[list[int]]:
    """An (H, W) bool mask as shapes: one for each part, or one of all; none for an empty mask."""
    if parts:
        return encode_parts(mask)
    points = encode_shape(mask)
    return [points] if points else []
