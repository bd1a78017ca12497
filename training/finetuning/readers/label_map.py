"""Objects drawn into one map of ids, in memory by the pixels of the photo, not by the number of objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from icmformer.types import BoolMask

from ...data.objects import IGNORE, MOST_OBJECTS
from .annotations import AnnotatedPhoto, Annotation, BadAnnotationError
from .reading_report import ReadingReport

TOO_MANY = f"objects beyond the largest {MOST_OBJECTS} of a photo"


def draw(
    photo: AnnotatedPhoto, height: int, width: int, report: ReadingReport
) -> tuple[NDArray[np.uint8], list[tuple[int, Annotation]]]:
    """Draws a photo's annotations over each other.

    Of more than 254 objects the smallest are ignored. What cannot be drawn is left out and reported.

    Args:
        photo: The annotations.
        height: Of the map.
        width: Of the map.
        report: Is told what was left out.

    Returns:
        (height, width) uint8: 0 background, 255 ignored, every other value an object; and each object's value with
        its annotation, of those of which a pixel can be seen.
    """
    name = photo.photo.identity
    labels = np.zeros((height, width), np.uint8)
    areas: list[tuple[int, Annotation]] = []  # drawn twice: first for the areas, which decide the order
    for annotation in photo.annotations:
        try:
            mask = _mask(annotation, height, width)
        except BadAnnotationError as error:
            report.skip(error.kind, f"{annotation.name} of {name}", error.text)
            continue
        area = int(np.count_nonzero(mask))
        if not area:
            report.skip("no pixel of the photo", f"{annotation.name} of {name}")
        elif annotation.ignored:
            labels[mask] = IGNORE
        else:
            areas.append((area, annotation))
    by_area = sorted(range(len(areas)), key=lambda i: -areas[i][0])
    numbers = {index: place for place, index in enumerate(sorted(by_area[:MOST_OBJECTS]), 1)}
    for index in by_area if photo.by_size else range(len(areas)):
        value = numbers.get(index, IGNORE)
        labels[_mask(areas[index][1], height, width)] = value
        if value == IGNORE:
            report.skip(TOO_MANY, f"{areas[index][1].name} of {name}", "ignored in training, not background")
    return labels, list(_visible(labels, [(numbers[i], areas[i][1]) for i in sorted(numbers)], name, report))


def _visible(
    labels: NDArray[np.uint8], objects: Sequence[tuple[int, Annotation]], name: str, report: ReadingReport
) -> Iterator[tuple[int, Annotation]]:
    seen = np.bincount(labels.ravel(), minlength=IGNORE + 1) > 0
    for value, annotation in objects:
        if seen[value]:
            yield value, annotation
        else:
            report.skip("covered by other objects", f"{annotation.name} of {name}")


def _mask(annotation: Annotation, height: int, width: int) -> BoolMask:
    first, *others = annotation.shapes
    mask = first.draw(height, width)
    for shape in others:
        mask = mask | shape.draw(height, width)
    return mask
