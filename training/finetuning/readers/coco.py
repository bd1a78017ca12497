"""COCO JSON: polygons and run lengths, crowds ignored."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from icmformer.types import BoolMask

from ...data.coco_segmentation import NO_OUTLINE, decode, outlines_nothing
from ...data.outlines import entry_id, whole_number
from .annotations import (
    AnnotatedPhoto,
    Annotation,
    AnnotationError,
    BadAnnotationError,
    Photo,
)
from .photo_finder import NO_PHOTO, PhotoFinder, data_address, name_parts
from .reading_report import ReadingReport

_LONGEST_NAME = 4096
_LONGEST_TOLD = 80
_Id = int | str


def is_coco(content: Any) -> bool:
    """Whether JSON has COCO's form."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


@dataclass(frozen=True)
class Segmentation:
    """COCO's `segmentation`, rasterised as COCO does."""

    segmentation: Any

    def draw(self, height: int, width: int) -> BoolMask:
        """The (height, width) bool mask.

        Raises:
            BadAnnotationError: See `training.data.coco_segmentation.encode`.
        """
        return decode(self.segmentation, height, width)


def read_coco(
    content: Mapping[str, Any], finder: PhotoFinder, report: ReadingReport, where: str
) -> Iterator[AnnotatedPhoto]:
    """The photos that have an annotation with an outline; ids are matched whether they are numbers or text.

    Args:
        content: The JSON file.
        finder: Finds the photos.
        report: Is told what was left out and decided.
        where: The file's name, for messages.

    Raises:
        AnnotationError: `images` or `annotations` are no lists.
    """
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise AnnotationError(f"{where} is no COCO JSON: its {key!r} is a {type(content.get(key)).__name__}")
    images = list(_images(content["images"], report))
    of_id: dict[_Id, set[tuple[str, ...]]] = {}
    for image in images:
        of_id.setdefault(image.id, set()).add(name_parts(image.name))
    by_image = _by_image(content["annotations"], of_id, report)
    categories, videos = _names(content.get("categories")), _names(content.get("videos"))
    for image in images:
        entries = by_image.get(image.id, [])
        if not entries:
            report.skip("a photo without annotations", image.name)
        elif len(of_id[image.id]) > 1:
            told = f"id {_told(image.id)}, {len(entries)} annotations: whose they are cannot be told"
            report.skip("several photos with one id", image.name, told)
        elif annotations := list(_annotations(entries, categories, image.name, report)):
            try:
                yield AnnotatedPhoto(_photo(image, videos, finder, report), annotations, by_size=True)
            except BadAnnotationError as error:
                report.skip(error.kind, image.name, error.text)


@dataclass(frozen=True)
class _Image:
    """An entry of `images`."""

    id: _Id
    name: str
    address: str
    entry: Mapping[str, Any]


def _images(entries: Sequence[Any], report: ReadingReport) -> Iterator[_Image]:
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            report.skip("an entry that is no image", f"number {number} of the images")
            continue
        key = entry_id(entry.get("id"))
        names = [entry.get("file_name"), entry.get("coco_url")]  # LVIS has the latter alone
        address = next((name for name in names if isinstance(name, str) and name), None)
        if key is None or address is None:
            kind = "an image without an id" if key is None else "an image without a file name"
            report.skip(kind, address[:_LONGEST_TOLD] if address else f"number {number} of the images")
            continue
        name = f"image {_told(key)}" if address[:5].lower() == "data:" else address
        if len(name) > _LONGEST_NAME:
            report.skip("a file name that is too long", name[:_LONGEST_TOLD], f"{len(name):,} characters")
        else:
            yield _Image(key, name, address, entry)


def _by_image(
    entries: Sequence[Any], known: Container[_Id], report: ReadingReport
) -> Mapping[_Id, list[tuple[str, Mapping[str, Any]]]]:
    """Annotations with their names for people."""
    found: dict[_Id, list[tuple[str, Mapping[str, Any]]]] = {}
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            report.skip("an entry that is no annotation", f"number {number} of the annotations")
            continue
        name = f"annotation {_told(entry['id'])}" if "id" in entry else f"annotation number {number}"
        key = entry_id(entry.get("image_id"))
        if key is None or key not in known:
            report.skip("an annotation of no image of the file", name, f"image_id {_told(entry.get('image_id'))}")
        else:
            found.setdefault(key, []).append((name, entry))
    return found


def _annotations(
    entries: Sequence[tuple[str, Mapping[str, Any]]], categories: Mapping[_Id, str], photo: str, report: ReadingReport
) -> Iterator[Annotation]:
    for name, entry in entries:
        segmentation, of_photo = entry.get("segmentation"), f"{name} of {photo}"
        nothing = outlines_nothing(segmentation)
        if nothing:
            report.skip(_instead(entry) if nothing == NO_OUTLINE else nothing, of_photo)
            continue
        if isinstance(segmentation, list):
            short = sum(isinstance(part, list) and 0 < len(part) < 6 for part in segmentation)
            if short:
                report.decide("parts of fewer than three points left out", of_photo, f"{short}")
        crowd = entry.get("iscrowd") is True or bool(whole_number(entry.get("iscrowd")))
        attributes = entry.get("attributes")
        if crowd and isinstance(segmentation, Mapping) and isinstance(attributes, Mapping) and "occluded" in attributes:
            report.decide("iscrowd of CVAT, which every brush mask has there: read as an object", of_photo)
            crowd = False
        category = entry_id(entry.get("category_id"))
        label = categories.get(category, "") if category is not None else ""
        yield Annotation(name, (Segmentation(segmentation),), label, ignored=crowd)


def _instead(entry: Mapping[str, Any]) -> str:
    """What an annotation without an outline has."""
    for key, told in (("keypoints", "key points"), ("segments_info", "panoptic, whose masks are PNG files")):
        if entry.get(key):
            return f"{NO_OUTLINE}: {told}"
    return f"{NO_OUTLINE}: a box" if entry.get("bbox") else NO_OUTLINE


def _photo(image: _Image, videos: Mapping[_Id, str], finder: PhotoFinder, report: ReadingReport) -> Photo:
    height, width = whole_number(image.entry.get("height")), whole_number(image.entry.get("width"))
    size = (height, width) if height and width and height > 0 and width > 0 else None
    file: Path | bytes | None = data_address(image.address)
    path = image.address
    if file is None:
        path, file = _found(image.address, finder, size)
    if size is None:
        report.decide("a photo without height and width: the file's own are used", image.name)
    video = entry_id(image.entry.get("video_id"))
    group = f"video {_told(videos.get(video, video))}" if video is not None else ""
    return Photo(image.name, file, size, group, path=path)


def _found(address: str, finder: PhotoFinder, size: tuple[int, int] | None) -> tuple[str, Path]:
    """The path that led to a photo, and the file: the address as it is, else without what addresses of the web add."""
    try:
        return address, finder.find(address, size)
    except BadAnnotationError as error:
        plain = unquote(re.split(r"[?#]", address, maxsplit=1)[0] if "://" in address else address)
        if error.kind != NO_PHOTO or plain == address:
            raise
        return plain, finder.find(plain, size)


def _names(entries: Any) -> Mapping[_Id, str]:
    """Names of categories or videos by id."""
    found: dict[_Id, str] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping):
            key, name = entry_id(entry.get("id")), entry.get("name")
            if key is not None and isinstance(name, str):
                found[key] = name
    return found


def _told(value: Any) -> str:
    """A value for messages, never long."""
    return value[:_LONGEST_TOLD] if isinstance(value, str) else reprlib.repr(value)
