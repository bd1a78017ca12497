"""From a label map to the one object a training sample asks for."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .records import ImageRecord, Place

IGNORE = 255
MOST_OBJECTS = 254
"""In a label map of bytes."""
_SALIENT_SETS = frozenset({"duts_tr", "ecssd"})  # one mask of all salient objects together


def pick_object(
    labels: NDArray[np.uint8], record: ImageRecord, rng: Generator, merge: float, least: float
) -> NDArray[np.uint8] | None:
    """Picks a target.

    Args:
        labels: (H, W) uint8 label map, or layers (H, W, L) of them.
        record: What is known of the image.
        rng: Randomness of this sample.
        merge: Probability of merging two objects into one target.
        least: Smallest share of the image that a target must cover.

    Returns:
        (H, W) uint8: 1 the object, 0 the rest, 255 ignored; None if the image holds no object large enough.
    """
    layers = labels if labels.ndim == 3 else labels[..., None]
    pixels = least * layers[..., 0].size
    large = [place for place, area in areas(layers).items() if area >= pixels]
    if not large:
        return None
    chosen = [large[rng.integers(len(large))]]
    if len(large) > 1 and rng.random() < merge:
        chosen.append(large[rng.integers(len(large))])
    mask = np.asarray(layers[..., chosen[0][0]] == chosen[0][1])
    for layer, value in chosen[1:]:
        mask |= layers[..., layer] == value
    splits = record.semantic_parts or record.set in _SALIENT_SETS
    if splits and rng.random() < 0.5:
        mask = _one_component(mask, rng, least)
    ignored = layers[..., 0] == IGNORE if layers.shape[2] == 1 else (layers == IGNORE).any(2)
    target = mask.astype(np.uint8)
    target[ignored] = IGNORE
    return target


def areas(layers: NDArray[np.uint8]) -> dict[Place, int]:
    """Pixels of each object in layers (H, W, L) of label maps, by layer and value."""
    found: dict[Place, int] = {}
    for layer in range(layers.shape[2]):
        counts = np.bincount(layers[..., layer].ravel(), minlength=IGNORE + 1)
        found |= {(layer, int(value)): int(counts[value]) for value in np.flatnonzero(counts[1:IGNORE]) + 1}
    return found


def without_stuff(labels: NDArray[np.uint8], record: ImageRecord, rng: Generator, keep: float) -> NDArray[np.uint8]:
    """The layers without their stuff, which becomes background, but for a share `keep` of the samples."""
    if not record.stuff or rng.random() < keep:
        return labels
    things = labels.copy()
    for layer, value in record.stuff:
        things[..., layer][things[..., layer] == value] = 0
    return things


def any_object(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) bool: where any layer has an object or is ignored."""
    found: NDArray[np.bool_] = labels > 0
    return np.asarray(found.any(2)) if found.ndim == 3 else found


def _one_component(mask: NDArray[np.bool_], rng: Generator, least: float) -> NDArray[np.bool_]:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= least * mask.size]
    return parts == large[rng.integers(len(large))] if large else mask
