"""What every reader of exports gives: photos with their annotations, none of them drawn yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from icmformer.errors import ConfigError
from icmformer.images.display import ShownBy
from icmformer.types import BoolMask

from ...data.outlines import BadAnnotationError as BadAnnotationError  # for all readers

Orientation = Literal["upright", "stored"]
"""The frame of an annotation's coordinates: the photo as its EXIF orientation says it is shown, or as it is stored."""


class AnnotationError(ConfigError):
    """An export that cannot be read, as a whole."""


class Shape(Protocol):
    """A part of an annotation's outline, cheap to hold: what the export says, checked when it is drawn."""

    def draw(self, height: int, width: int) -> BoolMask:
        """The (height, width) bool mask on an image of that size.

        Takes memory by the pixels of the image, whatever the shape says of itself.

        Raises:
            BadAnnotationError: It cannot be drawn on that size.
        """


@dataclass(frozen=True)
class Annotation:
    """One object of a photo.

    Attributes:
        name: For people: "annotation 12", "region a8f".
        shapes: Their union is the object's mask.
        label: Its class, empty where there is none.
        source: What drew it, as the export says: "manual", "auto", "prediction"; empty where it does not say.
        annotator: Who, as the export says.
        ignored: Neither object nor background, as COCO's crowds.
    """

    name: str
    shapes: Sequence[Shape]
    label: str = ""
    source: str = ""
    annotator: str = ""
    ignored: bool = False


@dataclass(frozen=True)
class Photo:
    """One photo as an export knows it.

    Attributes:
        identity: Its path as the export has it; for people, and for rules of grouping.
        file: Where it is, or its bytes (of a `data:` address).
        size: Height and width that the export states; None where it states none.
        group: Photos of one group are never on both sides of a split: "task 7", "video lorry.mp4"; empty for none.
        orientation: The frame in which the tool annotates, where the stated size fits both.
        shown_by: The tool that shows it to annotators, whose pixels are trained on.
        path: What the export's path comes to, without quoting and prefixes of addresses; empty for `identity` itself.
    """

    identity: str
    file: Path | bytes
    size: tuple[int, int] | None = None
    group: str = ""
    orientation: Orientation = "upright"
    shown_by: ShownBy = "plain"
    path: str = ""


@dataclass(frozen=True)
class AnnotatedPhoto:
    """A photo with what one annotation session made of it. A photo may come several times; see `choose`.

    Attributes:
        photo: The photo.
        annotations: What outlines an object, in drawing order.
        by_size: Smaller objects lie over larger ones; else later ones over earlier ones.
        ground_truth: Marked as such in the tool.
        updated: ISO time of the last change, empty where the export has none.
        others: Further sessions on the same photo, which are used in this order where nothing of this can be drawn.
    """

    photo: Photo
    annotations: Sequence[Annotation] = field(default_factory=tuple)
    by_size: bool = False
    ground_truth: bool = False
    updated: str = ""
    others: Sequence[AnnotatedPhoto] = ()
