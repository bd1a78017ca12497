"""CVAT for images 1.1: masks, polygons and ellipses of an XML file; boxes outline nothing and are skipped."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator

import numpy as np

from icmformer.types import BoolMask
from training.finetuning.readers.annotated_image import AnnotatedImage, AnnotationError, ImageFinder, unique_name
from training.finetuning.readers.label_map import label_map, polygon_mask

_SHAPES = ("mask", "polygon", "ellipse")
_SKIPPED = ("box", "polyline", "points", "cuboid", "skeleton")


def is_cvat(root: ElementTree.Element) -> bool:
    """Whether XML has CVAT's form."""
    return root.tag == "annotations"


def read_cvat(root: ElementTree.Element, finder: ImageFinder) -> Iterator[AnnotatedImage]:
    """The images that have shapes; shapes of one group are one object.

    Raises:
        AnnotationError: A shape that cannot be read, an image that is not there, or the form for videos.
    """
    if root.find("track") is not None:
        raise AnnotationError("this is CVAT's format for videos; export as 'CVAT for images 1.1'")
    for image in root.iter("image"):
        height, width = int(_attribute(image, "height")), int(_attribute(image, "width"))
        shapes = [shape for shape in image if shape.tag in _SHAPES]
        skipped = Counter(shape.tag for shape in image if shape.tag in _SKIPPED)
        if not shapes and not skipped:
            continue
        name = _attribute(image, "name")
        file = finder.require(name)
        objects: dict[str, BoolMask] = {}
        for number, shape in enumerate(sorted(shapes, key=lambda s: int(s.get("z_order", "0")))):
            group = shape.get("group_id", "0")
            key = f"#{number}" if group == "0" else group
            try:
                mask = _mask(shape, height, width)
            except AnnotationError as error:
                raise AnnotationError(f"{name}: {error}") from error
            objects[key] = objects[key] | mask if key in objects else mask
        labels = label_map(objects.values(), height, width, by_size=False)
        yield AnnotatedImage(unique_name(name), file, labels, skipped)


def _mask(shape: ElementTree.Element, height: int, width: int) -> BoolMask:
    numbers = {key: float(value) for key, value in shape.attrib.items() if key in _NUMBERS}
    try:
        if shape.tag == "mask":
            return _runs(shape, height, width)
        if shape.tag == "polygon":
            points = [float(v) for pair in _attribute(shape, "points").split(";") for v in pair.split(",")]
            return polygon_mask(points, height, width)
        angles = np.linspace(0, 2 * math.pi, 180, endpoint=False)
        radii = np.array([numbers["rx"], numbers["ry"]])
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radii + [numbers["cx"], numbers["cy"]]
    except (KeyError, ValueError) as error:
        raise AnnotationError(f"a {shape.tag} of the file cannot be read: {error}") from error
    turn, middle = math.radians(numbers.get("rotation", 0.0)), (corners.min(0) + corners.max(0)) / 2
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return polygon_mask(((corners - middle) @ rotation + middle).ravel(), height, width)


_NUMBERS = frozenset({"cx", "cy", "rx", "ry", "rotation"})


def _runs(shape: ElementTree.Element, height: int, width: int) -> BoolMask:
    left, top, across, down = (int(_attribute(shape, key)) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in _attribute(shape, "rle").split(",")]
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    if inside.size != across * down or left < 0 or top < 0 or left + across > width or top + down > height:
        raise ValueError("its run lengths do not fill its box, or the box leaves the image")
    mask = np.zeros((height, width), bool)
    mask[top : top + down, left : left + across] = inside.reshape(down, across)
    return mask


def _attribute(element: ElementTree.Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise AnnotationError(f"an element {element.tag!r} of the file has no {name!r}")
    return value
