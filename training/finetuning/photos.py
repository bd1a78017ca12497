"""The photos of an export, written as running numbers into the run's folder, whatever the export calls them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from icmformer.errors import ImageError
from icmformer.images.reading import LoadedImage
from icmformer.types import RGBImage

from .readers.annotations import AnnotatedPhoto, Annotation, BadAnnotationError, Orientation
from .readers.label_map import draw
from .readers.orientation import frame_of
from .readers.reading_report import ReadingReport

_PALETTE = [channel for value in range(256) for channel in (value * 37 % 256, value * 91 % 256, value * 151 % 256)]


@dataclass(frozen=True)
class ObjectFacts:
    """An object of a photo: its value in the label map, and what the export says of it."""

    value: int
    label: str = ""
    source: str = ""
    annotator: str = ""


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo that was written as `images/NUMBER.png` and `masks/NUMBER.png` (a label map), upright.

    Attributes:
        number: Running number, from 1.
        identity: The export's path.
        group: Photos of one group are never on both sides of a split; empty for none.
        digest: SHA-256 of the upright pixels.
        height: In pixels, upright.
        width: In pixels, upright.
        objects: What its label map holds.
    """

    number: int
    identity: str
    group: str
    digest: str
    height: int
    width: int
    objects: tuple[ObjectFacts, ...]

    @property
    def stem(self) -> str:
        """Its files' name without ending."""
        return f"{self.number:06}"


def prepare_photos(
    photos: Iterable[AnnotatedPhoto], out: Path, report: ReadingReport, orientation: Orientation | None = None
) -> list[PreparedPhoto]:
    """Writes photos and label maps; what cannot be used is left out and reported.

    Args:
        photos: One at a time.
        out: Folder for `images/` and `masks/`.
        report: Is told what was left out and decided.
        orientation: The frame of annotations of photos with an EXIF orientation, where their size does not decide;
            None leaves it to the tool's rule.

    Returns:
        Those that have an object, in the export's order.
    """
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    prepared: list[PreparedPhoto] = []
    for item in tqdm(photos, desc="preparing", unit="photo"):
        try:
            pixels, labels, objects, item = _first_drawn(item, orientation, report)
        except BadAnnotationError as error:
            report.skip(error.kind, item.photo.identity, error.text)
            continue
        number = len(prepared) + 1
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        facts = tuple(ObjectFacts(value, a.label, a.source, a.annotator) for value, a in objects)
        height, width = labels.shape
        photo = PreparedPhoto(number, item.photo.identity, item.photo.group, digest, height, width, facts)
        ids = Image.fromarray(labels)
        ids.putpalette(_PALETTE)  # values of a palette are ids for sure
        for kind, picture in (("images", Image.fromarray(pixels)), ("masks", ids)):
            picture.save(out / kind / f"{photo.stem}.png", compress_level=1)
        prepared.append(photo)
        report.photos += 1
        report.objects += len(objects)
    return prepared


def _first_drawn(
    item: AnnotatedPhoto, orientation: Orientation | None, report: ReadingReport
) -> tuple[RGBImage, NDArray[np.uint8], list[tuple[int, Annotation]], AnnotatedPhoto]:
    """The first of a photo's sessions of which something can be drawn.

    Raises:
        BadAnnotationError: None, or a photo that cannot be used.
    """
    failure = None
    for session in (item, *item.others):
        try:
            pixels, labels, objects = _drawn(session, orientation, report)
        except BadAnnotationError as error:
            failure = failure or error
            continue
        if objects:
            if session is not item:
                report.decide("another session, since nothing of the first can be drawn", item.photo.identity)
            return pixels, labels, objects, session
    raise failure or BadAnnotationError("a photo on which nothing is outlined")


def _drawn(
    item: AnnotatedPhoto, orientation: Orientation | None, report: ReadingReport
) -> tuple[RGBImage, NDArray[np.uint8], list[tuple[int, Annotation]]]:
    """The upright pixels of a photo, its label map, and the objects in that.

    Raises:
        BadAnnotationError: A photo that cannot be read, or of another size than its annotations.
    """
    file = item.photo.file
    try:
        data = file if isinstance(file, bytes) else file.read_bytes()
        image = LoadedImage.from_bytes(data, shown_by=item.photo.shown_by)
    except (ImageError, OSError) as error:
        raise BadAnnotationError("a photo that cannot be read", str(error)) from error
    height, width = image.pixels.shape[:2]
    frame = frame_of(item.photo, height, width, orientation, report)
    labels, objects = draw(item, frame.height, frame.width, report)
    return image.pixels, frame.upright(labels), objects
