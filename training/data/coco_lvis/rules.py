"""How LVIS instances, COCO things and COCO stuff of one image become its objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from icmformer.types import BoolMask

from ..packed_mask import PackedMask

MIN_AREA = 80
MIN_STUFF = 500
BOX_IOU = 0.7
MATCH_IOU = 0.7
DUPLICATE_IOU = 0.85
INSIDE = 0.8


Mask = BoolMask | PackedMask
"""(H, W) bool, or the same packed."""


def packed(mask: Mask) -> PackedMask:
    """A mask that takes memory by its outline."""
    return mask if isinstance(mask, PackedMask) else PackedMask.of(mask)


@dataclass(frozen=True)
class Object:
    """One object of an image.

    Attributes:
        packed: Its mask.
        parent: Place of the object that it is a part of; None for none.
        stuff: Whether it is stuff (sky, grass) rather than a thing.
        source: Where it comes from, for summaries.
    """

    packed: PackedMask
    source: str
    parent: int | None = None
    stuff: bool = False

    @property
    def mask(self) -> BoolMask:
        """(H, W) bool."""
        return self.packed.mask()


class Shape:
    """A mask with its box and area, for comparing."""

    def __init__(self, mask: Mask) -> None:
        self.packed = packed(mask)
        self.area, self.box = self.packed.area, self.packed.box

    def shared(self, other: Shape) -> int:
        """Pixels of both."""
        top, bottom = max(self.box[0], other.box[0]), min(self.box[1], other.box[1])
        left, right = max(self.box[2], other.box[2]), min(self.box[3], other.box[3])
        return self.packed.shared(other.packed) if top < bottom and left < right else 0

    def box_iou(self, other: Shape) -> float:
        """IoU of the boxes."""
        rows = max(0, min(self.box[1], other.box[1]) - max(self.box[0], other.box[0]))
        columns = max(0, min(self.box[3], other.box[3]) - max(self.box[2], other.box[2]))
        both = rows * columns
        sides = [(b[1] - b[0]) * (b[3] - b[2]) for b in (self.box, other.box)]
        return both / (sum(sides) - both) if both else 0.0

    def iou(self, other: Shape) -> float:
        """IoU of the masks."""
        both = self.shared(other)
        return both / (self.area + other.area - both) if both else 0.0

    def matches(self, other: Shape, iou: float) -> bool:
        """Whether boxes and masks overlap so far."""
        return self.box_iou(other) > BOX_IOU and self.iou(other) > iou


def combine(lvis: Iterable[Mask], things: Iterable[Mask], stuff: Iterable[Mask]) -> list[Object]:
    """The objects of one image: things first, parents by place, then stuff.

    Args:
        lvis: LVIS instances.
        things: COCO's panoptic things (or instances).
        stuff: COCO's panoptic stuff.

    Returns:
        LVIS instances of at least 80 pixels without duplicates (box IoU over 0.7 and mask IoU over 0.85 with one
        before), the things that match none of them (both over 0.7), and what of the stuff lies outside all of them,
        where that is over 500 pixels. A thing with over 0.8 of its pixels in a larger one is part of the smallest such.
    """
    kept: list[tuple[Shape, str]] = []
    for mask in lvis:
        shape = Shape(mask)
        if shape.area >= MIN_AREA and not any(shape.matches(other, DUPLICATE_IOU) for other, _ in kept):
            kept.append((shape, "lvis"))
    instances = [shape for shape, _ in kept]
    for mask in things:
        shape = Shape(mask)
        if shape.area >= MIN_AREA and not any(shape.matches(other, MATCH_IOU) for other in instances):
            kept.append((shape, "coco"))
    shapes = [shape for shape, _ in kept]
    objects = [
        Object(shape.packed, source, parent) for (shape, source), parent in zip(kept, parents(shapes), strict=True)
    ]
    free = ~PackedMask.union([shape.packed for shape in shapes]).mask() if shapes else None
    for mask in stuff:
        whole = packed(mask)
        rest = whole if free is None else PackedMask.of(whole.mask() & free)
        if rest.area > MIN_STUFF:
            objects.append(Object(rest, "stuff", stuff=True))
    return objects


def parents(shapes: Sequence[Shape]) -> list[int | None]:
    """For each shape the place of the smallest larger one with over 0.8 of it; of equals the earlier is larger."""
    order = sorted(range(len(shapes)), key=lambda i: (-shapes[i].area, i))
    rank = {place: number for number, place in enumerate(order)}
    found: list[int | None] = []
    for place, shape in enumerate(shapes):
        larger = [i for i in order if rank[i] < rank[place] and shape.shared(shapes[i]) > INSIDE * shape.area]
        found.append(larger[-1] if larger else None)
    return found
