"""A job of CVAT, as its API gives it: which frames there are, and what outlines something on them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..readers.cvat_meta import CvatTask, iso_time, stated_size
from ..readers.cvat_parts import INTERPOLATED, CvatPart, part
from ..readers.cvat_shapes import OUTLINES, CvatShape
from ..readers.reading_report import ReadingReport

UNREVIEWED = "an automatic shape that nobody has looked through"
_STEP = re.compile(r"step=(\d+)")
_TAGS = {"rectangle": "box"}


def shape_attributes(kind: str, points: Sequence[float], rotation: float = 0.0, order: int = 0) -> dict[str, str]:
    """A shape of the API in the words of CVAT's XML, rounded as that is: both are the same to the pixel.

    Args:
        kind: The API's type; of one that outlines nothing only the order is told.
        points: As the API has them: x1, y1, ...; of a mask run lengths, left, top, right, bottom, the last two
            inclusive; of an ellipse its middle, its right and its upper end.
        rotation: In degrees, clockwise.
        order: CVAT's z order.
    """
    found = {"z_order": str(order)}
    if kind == "mask" and len(points) > 4:
        left, top, right, bottom = points[-4:]
        box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
        found |= {"rle": ", ".join(map(_whole, points[:-4]))} | {key: _whole(n) for key, n in box.items()}
    elif kind == "polygon":
        found["points"] = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(points[::2], points[1::2], strict=False))
    elif kind == "ellipse" and len(points) == 4:
        x, y, right, top = points
        numbers = {"cx": x, "cy": y, "rx": right - x, "ry": y - top, "rotation": rotation}
        found |= {key: f"{number:.2f}" for key, number in numbers.items()}
    return found


def _whole(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


@dataclass(frozen=True)
class CvatJob:
    """A job.

    Attributes:
        facts: The job, as the API has it.
        task: Its task, as the API has it, and its `honeypots`, frames that check annotators.
        labels: Names by number.
        meta: Of its frames, as the API has it.
        annotations: Tags, shapes and tracks, as the API has them.
    """

    facts: Mapping[str, Any]
    task: Mapping[str, Any]
    labels: Mapping[int, str]
    meta: Mapping[str, Any]
    annotations: Mapping[str, Any]

    @property
    def number(self) -> int:
        """The job's number."""
        return int(self.facts["id"])

    @property
    def reviewed(self) -> bool:
        """Whether an annotator has been through all of it: completed, or in a later stage than annotation."""
        return bool(self.facts.get("state") == "completed" or self.facts.get("stage", "annotation") != "annotation")

    @property
    def video(self) -> bool:
        """Whether its frames are those of a video."""
        return bool(self.facts.get("mode", self.task.get("mode")) == "interpolation")

    @cached_property
    def _honeypots(self) -> frozenset[int]:
        return frozenset(self.task.get("honeypots") or ())

    @cached_property
    def about(self) -> CvatTask:
        """What readers of exports know of a task."""
        frames = self.meta.get("frames") or ()
        source = str(frames[0].get("name", "")).replace("\\", "/").rpartition("/")[2] if self.video and frames else ""
        return CvatTask(
            f"task {self.facts['task_id']}",
            "interpolation" if self.video else "annotation",
            source,
            str((self.facts.get("assignee") or {}).get("username") or ""),
            iso_time(str(self.facts.get("updated_date") or "")),
        )

    @cached_property
    def frames(self) -> Mapping[int, Mapping[str, Any]]:
        """Name, width and height by the frame's number in CVAT, without deleted frames."""
        gone = set(self.meta.get("deleted_frames") or ())
        return {number: frame for number, frame in self._every_frame() if number not in gone}

    def _every_frame(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        first, last = int(self.facts["start_frame"]), int(self.facts["stop_frame"])
        frames: Sequence[Mapping[str, Any]] = self.meta.get("frames") or ()
        numbers: Sequence[int] = range(first, last + 1)
        step = max(1, int(match[1])) if (match := _STEP.search(self.meta.get("frame_filter") or "")) else 1
        start = int(self.meta.get("start_frame") or 0)  # in the source, of the job's first frame
        included = self.meta.get("included_frames")
        if included and len(frames) != len(numbers):  # of a ground truth job
            numbers = [(n - start) // step + first for n in included] if max(included) > last else included
        if self.video or len(frames) == 1 < len(numbers):
            for number in numbers if frames else ():
                yield number, {**frames[0], "name": f"frame_{start + (number - first) * step:06}"}
        else:
            yield from zip(numbers, frames, strict=False)

    def size(self, number: int) -> tuple[int, int] | None:
        """Height and width of a frame."""
        frame = self.frames[number]
        return stated_size(str(frame.get("height", "")), str(frame.get("width", "")))

    def parts(self, report: ReadingReport) -> dict[int, list[CvatPart]]:
        """What outlines something, by frame; the rest goes into the report.

        Of tracks only keyframes are read. An automatic shape of a job that no annotator has been through is what a
        network thought, and is passed over.
        """
        found: dict[int, list[CvatPart]] = defaultdict(list)
        numbers: dict[int, Counter[str]] = defaultdict(Counter)
        for tag in self.annotations.get("tags") or ():
            report.skip("tag", self._of(tag["frame"]), "it outlines nothing")
        for shape in self.annotations.get("shapes") or ():
            kind = _TAGS.get(shape["type"], shape["type"])
            numbers[shape["frame"]][kind] += 1
            self._add(shape, shape, f"{kind} {numbers[shape['frame']][kind]}", found, report)
        for track in self.annotations.get("tracks") or ():
            self._add_track(track, found, report)
        return dict(found)

    def _add_track(self, track: Mapping[str, Any], found: dict[int, list[CvatPart]], report: ReadingReport) -> None:
        name, between = f"track {track['id']}", 0
        keys = sorted(track.get("shapes") or (), key=lambda shape: int(shape["frame"]))
        ends = [int(shape["frame"]) for shape in keys[1:]] + [int(self.facts["stop_frame"]) + 1]
        for shape, end in zip(keys, ends, strict=True):
            if not shape.get("outside"):
                self._add(shape, track, name, found, report)
                between += (end - int(shape["frame"]) - 1) * (shape["type"] in OUTLINES)
        if between:
            report.skip(INTERPOLATED, f"{name} of {self.about.name}", f"{between} frames")

    def _add(
        self,
        shape: Mapping[str, Any],
        owner: Mapping[str, Any],
        name: str,
        found: dict[int, list[CvatPart]],
        report: ReadingReport,
    ) -> None:
        """Adds a shape, of which `owner` (itself, or its track) has group, label and source."""
        frame = int(shape["frame"])
        if frame not in self.frames:
            report.skip("a shape of a deleted frame", f"{name} of {self._of(frame)}")
            return
        if frame in self._honeypots:
            report.skip("a shape of a honeypot", f"{name} of {self._of(frame)}", "a photo of the ground truth")
            return
        source, kind = str(owner.get("source") or ""), str(shape["type"])
        if source == "auto" and not self.reviewed and kind in OUTLINES:
            report.skip(UNREVIEWED, f"{name} of {self._of(frame)}", f"job {self.number} is not completed")
            return
        points, turned = shape.get("points") or (), float(shape.get("rotation") or 0)
        drawn = CvatShape(_TAGS.get(kind, kind), shape_attributes(kind, points, turned, shape.get("z_order") or 0))
        label = self.labels.get(owner["label_id"], "")
        made = part(drawn, str(owner.get("group") or 0), label, source, name, self._of(frame), report)
        if made is not None:
            found[frame].append(made)

    def _of(self, frame: int) -> str:
        known = self.frames.get(frame)
        return str(known["name"]) if known else f"frame {frame} of {self.about.name}"
