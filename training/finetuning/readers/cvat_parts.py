"""Shapes of CVAT's photos and the objects that they make: of exports and of the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .annotations import Annotation
from .cvat_shapes import OUTLINES, CvatShape, as_number
from .reading_report import ReadingReport

INTERPOLATED = "interpolated between keyframes"


@dataclass(frozen=True)
class CvatPart:
    """A shape of a photo.

    Attributes:
        order: CVAT's z order.
        group: Shapes of one group are one object; empty for none.
        name: For people: "mask 2", "track 7".
        label: Its class.
        source: What drew it: "manual", "semi-auto", "auto".
        shape: Its outline.
    """

    order: float
    group: str
    name: str
    label: str
    source: str
    shape: CvatShape


def part(
    shape: CvatShape, group: str, label: str, source: str, name: str, identity: str, report: ReadingReport
) -> CvatPart | None:
    """A shape as part of a photo; None, and a line of the report, for what outlines nothing.

    Args:
        shape: With what CVAT's XML has as attributes, `z_order` among them.
        group: The shape's or its track's; "0" and nothing for none.
        label: Its class.
        source: What drew it.
        name: For people.
        identity: Of the photo.
        report: Is told what is passed over.
    """
    order = as_number(shape.attributes.get("z_order", "0"))
    if shape.tag not in OUTLINES:  # box, polyline, points, cuboid, skeleton, tag
        report.skip(shape.tag, f"{name} of {identity}", "it outlines nothing")
    elif order is None or order != order:
        report.skip("a z_order that is no number", f"{name} of {identity}")
    else:
        group = group.strip()
        return CvatPart(order, "" if group == "0" else group, name, label, source, shape)
    return None


def annotations_of(
    parts: Sequence[CvatPart], identity: str, annotator: str, report: ReadingReport
) -> tuple[Annotation, ...]:
    """A photo's objects in drawing order: each shape one, those of a group one together.

    Args:
        parts: In CVAT's order.
        identity: Of the photo.
        annotator: Who drew them.
        report: Is told of groups of several labels.
    """
    objects: dict[str, list[CvatPart]] = {}
    for place, each in enumerate(sorted(parts, key=lambda each: each.order)):
        objects.setdefault(f"group {each.group}" if each.group else f"#{place}", []).append(each)
    return tuple(_annotation(key, same, identity, annotator, report) for key, same in objects.items())


def _annotation(
    key: str, parts: Sequence[CvatPart], identity: str, annotator: str, report: ReadingReport
) -> Annotation:
    first, grouped = parts[0], len(parts) > 1
    name = f"{key} ({', '.join(each.name for each in parts[:3])})" if grouped else first.name
    if len({each.label for each in parts}) > 1:
        report.decide("a group of several labels", f"{name} of {identity}", f"one object, {first.label!r}")
    return Annotation(name, tuple(each.shape for each in parts), first.label, first.source, annotator)
