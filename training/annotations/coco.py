"""COCO JSON: polygons and run lengths, crowds ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from icmformer.types import BoolMask
from training.annotations.labelmap import AnnotatedPhoto, AnnotationError, ImageFinder, label_map


def read_coco(content: Mapping[str, Any], finder: ImageFinder) -> Iterator[AnnotatedPhoto]:
    """The photos that have annotations.

    Raises:
        AnnotationError: Not COCO's form.
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content["annotations"]:
        if annotation.get("segmentation"):
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image in content["images"]:
        annotations = by_image.get(image["id"])
        if not annotations:
            continue
        name = str(image["file_name"])
        file = finder.find(name)
        if file is None:
            raise AnnotationError(f"there is no photo {name}; name the folder of the photos with --images")
        height, width = int(image["height"]), int(image["width"])
        masks, crowds = [], []
        for annotation in annotations:
            target = crowds if annotation.get("iscrowd") else masks
            target.append(decode(annotation["segmentation"], height, width))
        yield AnnotatedPhoto(Path(name).stem, file, label_map(masks, height, width, crowds))


def decode(segmentation: Any, height: int, width: int) -> BoolMask:
    """The (H, W) bool mask of a segmentation: polygons, or run lengths, packed or plain.

    Raises:
        AnnotationError: Another form.
    """
    try:
        if isinstance(segmentation, list):
            coded = rle.merge(rle.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            coded = rle.frPyObjects(segmentation, height, width)
        else:
            coded = segmentation
        mask: BoolMask = np.asarray(rle.decode(coded), bool)
    except Exception as error:  # pycocotools raises nearly anything
        raise AnnotationError(f"a segmentation is neither polygons nor run lengths: {error}") from error
    if mask.shape != (height, width):
        raise AnnotationError(f"a segmentation is of {mask.shape} rows and columns, its image of ({height}, {width})")
    return mask
