"""What is known of an image with object masks, and the interface of what such images come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int]
"""Where an object is in layers of label maps: layer and value."""


@dataclass(frozen=True)
class ImageRecord:
    """What is known of an image before it is opened.

    Attributes:
        key: Name within its source.
        set: The data set the image comes from.
        labels: Object ids in the label map.
        semantic_parts: Labels are classes of parts; one label may cover several objects.
        segments: Labels are regions of an image segmentation rather than objects.
        stuff: What is stuff (sky, grass) rather than an object, of images with layers.
        parts: Objects that are parts of others, each with the object that it is a part of, of images with layers.
        source: What the source calls the image where it comes from. Only zip shards say so, as of the two below.
        licence: The image's licence, in the words of the source.
        permissive: Whether the source says that this licence is permissive.
    """

    key: str
    set: str
    labels: tuple[int, ...]
    semantic_parts: bool = False
    segments: bool = False
    stuff: tuple[Place, ...] = ()
    parts: tuple[tuple[Place, Place], ...] = ()
    source: str = ""
    licence: str = ""
    permissive: bool = False


class ImageSource(Protocol):
    """Images by number. Safe to use in forked or spawned worker processes."""

    @property
    def records(self) -> Sequence[ImageRecord]:
        """What is known of each image."""

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns image `index` as RGB (H, W, 3) and its label map (H, W): 0 background, 255 ignored, else ids.

        Of images whose objects overlap: layers (H, W, L), each such a map.
        """
