"""COCO JSON: polygons and run lengths, crowds ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from icmformer.errors import ConfigError
from icmformer.types import BoolMask
from training.data.coco_segmentation import decode
from training.finetuning.readers.annotated_image import AnnotatedImage, AnnotationError, ImageFinder, unique_name
from training.finetuning.readers.label_map import label_map


def is_coco(content: Any) -> bool:
    """Whether JSON has COCO's form."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def read_coco(content: Mapping[str, Any], finder: ImageFinder) -> Iterator[AnnotatedImage]:
    """The images that have annotations.

    Raises:
        AnnotationError: A segmentation that cannot be read, or an image that is not there.
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image in content["images"]:
        every = by_image.get(image["id"], [])
        annotations = [a for a in every if _outlines(a.get("segmentation"))]
        if not every:
            continue
        name = str(image["file_name"])
        file = finder.require(name)
        height, width = int(image["height"]), int(image["width"])
        masks: list[BoolMask] = []
        crowds: list[BoolMask] = []
        for annotation in annotations:
            target = crowds if annotation.get("iscrowd") else masks
            try:
                target.append(decode(annotation["segmentation"], height, width))
            except ConfigError as error:
                raise AnnotationError(f"annotation {annotation.get('id')} of {name}: {error}") from error
        skipped = {"no outline": len(every) - len(annotations)} if len(every) > len(annotations) else {}
        yield AnnotatedImage(unique_name(name), file, label_map(masks, height, width, crowds), skipped)


def _outlines(segmentation: Any) -> bool:
    """Whether there is anything to draw: not a box alone, nor polygons of two points."""
    if isinstance(segmentation, list):
        return any(not isinstance(polygon, list) or len(polygon) >= 6 for polygon in segmentation)
    return bool(segmentation)
