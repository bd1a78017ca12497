"""CVAT for images 1.1 and CVAT for video 1.1, of tasks, jobs and projects: masks, polygons and ellipses."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from .annotations import (
    AnnotatedPhoto,
    AnnotationError,
    BadAnnotationError,
    Photo,
)
from .cvat_meta import CvatTask, read_tasks, stated_size
from .cvat_parts import INTERPOLATED, CvatPart, annotations_of, part
from .cvat_shapes import OUTLINES, CvatShape, as_number
from .photo_finder import PhotoFinder
from .reading_report import ReadingReport

NO_NAMES = "a track of a task of images"
_LAST_FRAME = 1e9


def parse_cvat(data: bytes | str, where: str) -> ElementTree.Element:
    """The root of an XML file, in any encoding that XML parsers must know, or decoded.

    Raises:
        AnnotationError: It is damaged, or declares a document type or entities, which exports do not.
    """
    parser = ElementTree.XMLParser(target=_WithoutEntities())
    try:
        parser.feed(data)
        root: ElementTree.Element = parser.close()
    except _DeclaredError as error:
        raise AnnotationError(f"{where} declares entities, which exports do not") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AnnotationError(f"{where} cannot be read: {error}") from error
    return root


class _DeclaredError(Exception):
    pass


class _WithoutEntities(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise _DeclaredError


def is_cvat(root: ElementTree.Element) -> bool:
    """Whether XML has CVAT's form."""
    return root.tag == "annotations"


def read_cvat(
    root: ElementTree.Element, finder: PhotoFinder, report: ReadingReport, where: str
) -> Iterator[AnnotatedPhoto]:
    """The photos that have an outline; shapes of one group are one object of a photo.

    Of tracks only keyframes are read. CVAT shows photos as their EXIF orientation says.

    Args:
        root: `<annotations>`.
        finder: Of the photos.
        report: Is told what was skipped and decided.
        where: Name of the export, for messages.

    Raises:
        AnnotationError: CVAT for video of a task of images, which says nothing of which photo a frame is.
    """
    tasks, every_photo = read_tasks(root, where)
    reader = _Reader(finder, report)
    images = list(root.iter("image"))
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for image in images:
        owners[_identity(image)].add(image.get("task_id", ""))
    for image in images:
        task, (subset, name) = tasks.get(image.get("task_id", ""), every_photo), _identity(image)
        if not name:
            report.skip("a photo without a name", f"image {image.get('id', '')} of {where}")
            continue
        identity = f"{subset}/{name}" if subset else name
        if len(owners[subset, name]) > 1:  # different photos until a file shows that they are one
            identity = f"task {image.get('task_id', '')}/{identity}"
        size = stated_size(image.get("height"), image.get("width"))
        if size is None and (image.get("height") or image.get("width")):
            report.decide("a stated size that no photo has", identity, "the photo's own")
        parts = list(_parts(image, identity, report))
        yield from reader.photos(identity, size, task.group(name), parts, task)
    for tag in root.findall("tag"):
        report.skip("tag", f"frame {tag.get('frame', '')} of {where}", "it outlines nothing")
    tracks = [(track, tasks.get(track.get("task_id", ""), every_photo)) for track in root.iter("track")]
    if tracks and not images and all(task.mode == "annotation" for _, task in tracks):
        raise AnnotationError(
            f"{where} is CVAT's format for videos, of a task of images, and does not name them; "
            "export it as 'CVAT for images 1.1'"
        )
    for (subset, number, _), (task, parts) in sorted(_frames(tracks, report).items(), key=itemgetter(0)):
        name = f"frame_{number:06}"
        identity = f"{subset}/{name}" if subset else name
        yield from reader.photos(identity, task.size, task.group(name), parts, task)


def _identity(image: ElementTree.Element) -> tuple[str, str]:
    """Subset, which exports of projects have as a folder, and name."""
    return image.get("subset", ""), image.get("name", "").strip()


@dataclass(frozen=True)
class _Reader:
    finder: PhotoFinder
    report: ReadingReport

    def photos(
        self, identity: str, size: tuple[int, int] | None, group: str, parts: Sequence[CvatPart], task: CvatTask
    ) -> Iterator[AnnotatedPhoto]:
        """The photo with its objects, or nothing."""
        if not parts:
            return
        try:
            file = self.finder.find(identity, size)
        except BadAnnotationError as error:
            self.report.skip(error.kind, identity, error.text)
            return
        annotations = annotations_of(parts, identity, task.assignee, self.report)
        yield AnnotatedPhoto(Photo(identity, file, size, group, "upright", "cvat"), annotations, updated=task.updated)


def _parts(image: ElementTree.Element, identity: str, report: ReadingReport) -> Iterator[CvatPart]:
    """What outlines something; the rest goes into the report."""
    numbers: Counter[str] = Counter()
    for shape in image:
        numbers[shape.tag] += 1
        found = _part(shape, shape, f"{shape.tag} {numbers[shape.tag]}", identity, report)
        if found is not None:
            yield found


def _part(
    shape: ElementTree.Element, owner: ElementTree.Element, name: str, identity: str, report: ReadingReport
) -> CvatPart | None:
    """A shape, of which `owner` (itself, or its track) has group, label and source."""
    told = owner.get("group_id", ""), owner.get("label", ""), owner.get("source", "")
    return part(CvatShape(shape.tag, shape.attrib), *told, name, identity, report)


def _frames(
    tracks: Sequence[tuple[ElementTree.Element, CvatTask]], report: ReadingReport
) -> dict[tuple[str, int, str], tuple[CvatTask, list[CvatPart]]]:
    """The shapes of keyframes by subset, frame and task."""
    frames: dict[tuple[str, int, str], tuple[CvatTask, list[CvatPart]]] = {}
    for track, task in tracks:
        name = f"track {track.get('id', '')} of {task.name}"
        if task.mode == "annotation":
            report.skip(NO_NAMES, name, "export it as 'CVAT for images 1.1'")
            continue
        between = 0
        for shape in track:
            if shape.get("outside", "0") == "1":
                continue
            if shape.get("keyframe", "1") == "0":
                between += shape.tag in OUTLINES
                continue
            number = as_number(shape.get("frame", ""))
            if number is None or not 0 <= number <= _LAST_FRAME or not number.is_integer():
                report.skip("a frame that is no number", f"{shape.tag} of {name}")
                continue
            found = _part(shape, track, f"track {track.get('id', '')}", f"frame {int(number)} of {task.name}", report)
            if found is not None:
                place = track.get("subset", ""), int(number), task.name
                frames.setdefault(place, (task, []))[1].append(found)
        if between:
            report.skip(INTERPOLATED, name, f"{between} frames")
    return frames
