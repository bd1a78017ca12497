"""What an export of CVAT says of its tasks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from .cvat_shapes import as_number

_FRAME = re.compile(r"^frame_\d{6,}(\.\w+)?$", re.IGNORECASE)
_LONGEST_SIDE = 1e7


@dataclass(frozen=True)
class CvatTask:
    """A task, or a job of one.

    Attributes:
        name: For people, and the same for all photos of it.
        mode: "interpolation" of videos, "annotation" of images, empty where the file does not say.
        source: File name of the video.
        assignee: Who annotates.
        updated: ISO time of the last change.
        size: Height and width of a video's frames.
    """

    name: str
    mode: str = ""
    source: str = ""
    assignee: str = ""
    updated: str = ""
    size: tuple[int, int] | None = None

    def group(self, photo: str) -> str:
        """The group of a photo: the video that it is a frame of; empty for other photos.

        Frames of one folder of images named as CVAT names frames are those of a video too.
        """
        if self.mode == "interpolation":
            return f"video {self.source}" if self.source else self.name
        path = PurePosixPath(photo.replace("\\", "/"))
        if not _FRAME.match(path.name):
            return ""
        return self.name if path.parent == PurePosixPath() else f"{self.name}, {path.parent}"


def read_tasks(root: ElementTree.Element, where: str) -> tuple[Mapping[str, CvatTask], CvatTask]:
    """The tasks of an export by number, and the one of all photos that name none.

    Args:
        root: `<annotations>`.
        where: Name of the export, for a task that has no number.
    """
    unknown = CvatTask(where)
    meta = root.find("meta")
    if meta is None:
        return {}, unknown
    elements = [*meta.findall("task"), *meta.findall("job"), *meta.findall("project/tasks/task")]
    tasks = [(_text(element, "id"), _task(element, meta, where)) for element in elements]
    return dict(tasks), tasks[0][1] if len(tasks) == 1 else unknown


def _task(element: ElementTree.Element, meta: ElementTree.Element, where: str) -> CvatTask:
    number, created = _text(element, "id"), _text(element, "created")
    if element.tag == "job" and created:
        name = f"task created {created}"  # the one thing that jobs of a task have in common
    else:
        name = f"{element.tag} {number}" if number else where
    size = element.find("original_size")  # of jobs beside it
    size = meta.find("original_size") if size is None else size
    return CvatTask(
        name,
        _text(element, "mode"),
        _text(element, "source"),
        _text(element, "assignee/username"),
        iso_time(_text(element, "updated")),
        None if size is None else stated_size(_text(size, "height"), _text(size, "width")),
    )


def stated_size(height: str | None, width: str | None) -> tuple[int, int] | None:
    """Height and width that can be those of a photo; None for others."""
    numbers = [as_number(text or "") for text in (height, width)]
    sizes = [int(n) for n in numbers if n is not None and 1 <= n <= _LONGEST_SIDE and n.is_integer()]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def iso_time(text: str) -> str:
    """A time in UTC, so that texts of times compare; empty for what is none."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return ""
