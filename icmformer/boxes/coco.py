"""Boxes of a COCO file: a copy of it in which they have masks."""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from icmformer.boxes.journal import Journal
from icmformer.boxes.opening import Opened
from icmformer.boxes.orientation import Orientation, orientation, stored_mask, turns, upright_box
from icmformer.disk import writing
from icmformer.errors import ConfigError, ImageError, PromptError
from icmformer.images.reading import LoadedImage
from icmformer.runs import MaskRuns
from icmformer.settings import Settings
from icmformer.types import Box

_AT_ONCE = 32  # boxes of one line of the journal: so many are segmented again at most


def open_boxes(args: argparse.Namespace, version: str) -> Opened:
    """The file that the options name; see `icmformer.boxes.opening.Module`."""
    output: Path = args.output
    journal: Path = args.journal or output.with_name(f"{output.name}.journal")
    if output.exists() and not journal.exists():
        raise ConfigError(
            f"{output} is there already, and no run to go on with ({journal} is missing): name another file for -o"
        )
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError(f"-o {output} must be a file in a folder that is there")
    content, digest = _read(args.file)
    folder = args.images or args.file.parent
    if not folder.is_dir():
        raise ConfigError(f"--images {folder} is not a folder")
    settings = Settings.from_environment()
    source = CocoBoxes(content, folder, output, version, args.orientation, settings.max_pixels)
    run = {"file": f"{args.file.name} {digest}", "orientation": args.orientation or "by size, else upright"}
    return Opened(source, journal, run, str(output), lambda: f"image {source.at:,} of {source.images:,}")


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """A COCO file and its digest."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    for name in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ConfigError(f"{path} is not a COCO file: it needs an object with the lists images and annotations")
        if not all(isinstance(item, dict) for item in content[name]):
            raise ConfigError(f"{path} is not a COCO file: something in {name} is not an object")
    return content, hashlib.sha256(data).hexdigest()


class Photo:
    """An image of the file.

    Args:
        record: Its entry; None where there is none.
        name: What to call it.
        folder: Of the images.
        ruled: The frame of boxes where sizes do not tell.
        max_pixels: Largest image opened.

    Attributes:
        tag: EXIF orientation to turn boxes by; 1 for none. Known once it is loaded.
    """

    def __init__(
        self, record: Mapping[str, Any] | None, name: str, folder: Path, ruled: Orientation | None, max_pixels: int
    ) -> None:
        self._record, self.name, self._folder = record, name, folder
        self._ruled, self._max_pixels = ruled, max_pixels
        self.tag = 1

    def load(self) -> LoadedImage:
        """Reads it and finds the frame of its boxes.

        Raises:
            ImageError: It is not there, cannot be opened, or has another size than the file says.
        """
        if self._record is None:
            raise ImageError("no entry in images has this id")
        data = self._bytes()
        image = LoadedImage.from_bytes(data, self._max_pixels)
        self.tag = self._frame(orientation(data), *image.pixels.shape[:2])
        return image

    def _bytes(self) -> bytes:
        assert self._record is not None
        name = self._record.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise ImageError("its entry in images has no file_name")
        path = Path(name.replace("\\", "/"))
        for place in (self._folder / path, self._folder / path.name):
            try:
                if place.is_file():
                    return place.read_bytes()
            except OSError as error:
                raise ImageError(f"cannot read {place}: {error.strerror}") from error
        raise ImageError(f"there is no {path} in {self._folder}: give the images' folder with --images")

    def _frame(self, tag: int, height: int, width: int) -> int:
        """The orientation that boxes have to be turned by, for an upright image of a size."""
        assert self._record is not None
        said = self._record.get("height"), self._record.get("width")
        upright, stored = (height, width), ((width, height) if turns(tag) else (height, width))
        if None in said:
            said = upright if self._ruled != "stored" else stored
        if said not in (upright, stored):
            raise ImageError(
                f"it has {width} x {height} pixels, its entry in images says {said[1]} x {said[0]}: another image?"
            )
        if upright == stored:
            return tag if self._ruled == "stored" else 1
        return tag if said == stored else 1


@dataclass(frozen=True)
class PhotoBoxes:
    """Some boxes of an image, with the places of their annotations in the file.

    Attributes:
        source: Where they are from.
        photo: The image.
        places: Indices into annotations.
    """

    source: CocoBoxes
    photo: Photo
    places: tuple[int, ...]

    @property
    def key(self) -> str:
        """The first annotation's place; the file itself is the same in all runs."""
        return str(self.places[0])

    @property
    def images(self) -> Sequence[PhotoBoxes]:
        """The one."""
        return (self,)

    @property
    def name(self) -> str:
        return self.photo.name

    @property
    def boxes(self) -> int:
        return len(self.places)

    def load(self) -> LoadedImage:
        return self.source.loaded(self.photo)

    def box(self, number: int, image: LoadedImage) -> Box:
        annotation = self.source.annotations[self.places[number]]
        box, named = annotation["bbox"], f"annotation {annotation.get('id')}"
        try:
            x, y, width, height = box
            if not (width > 0 and height > 0):
                raise PromptError("width and height must be over 0")
            rows, columns = image.pixels.shape[:2]
            rows, columns = (columns, rows) if turns(self.photo.tag) else (rows, columns)
            return upright_box(Box(x, y, x + width, y + height), self.photo.tag, rows, columns)
        except (TypeError, ValueError, OverflowError) as error:
            why = f": {error}" if isinstance(error, PromptError) else ", four numbers are needed"
            raise PromptError(f"{named}: bbox {str(box)[:80]}{why}") from error

    def encode(self, number: int, mask: MaskRuns, score: float) -> list[Any]:
        stored = stored_mask(mask.to_mask(), self.photo.tag)
        packed = coco_mask.encode(np.asfortranarray(stored, np.uint8))
        return [self.places[number], [*stored.shape], packed["counts"].decode(), mask.area, round(score, 4)]


class CocoBoxes:
    """The boxes of a COCO file that are to get masks.

    Args:
        content: Of the file.
        folder: Of its images.
        output: File to write.
        version: Of the weights.
        ruled: The frame of boxes where sizes do not tell.
        max_pixels: Largest image opened.
    """

    def __init__(
        self,
        content: dict[str, Any],
        folder: Path,
        output: Path,
        version: str,
        ruled: Orientation | None,
        max_pixels: int,
    ) -> None:
        self._content, self._output, self._version = content, output, version
        self._folder, self._ruled, self._max_pixels = folder, ruled, max_pixels
        self.annotations: list[dict[str, Any]] = content["annotations"]
        self._images = {_hashable(image.get("id")): image for image in content["images"]}
        self._places: dict[Any, list[int]] = {}
        for place, annotation in enumerate(self.annotations):
            if needs_mask(annotation):
                self._places.setdefault(_hashable(annotation.get("image_id")), []).append(place)
        self._kept: tuple[Photo, LoadedImage] | None = None
        self.at, self.images = 0, len(self._places)  # how many of the images with boxes were looked at

    def total(self) -> int:
        return sum(map(len, self._places.values()))

    def units(self, done: Container[str]) -> Iterator[PhotoBoxes]:
        self.at = 0
        for identity, places in self._places.items():
            self.at += 1
            record = self._images.get(identity)
            name = f"image {identity}" + (f", {str(record.get('file_name'))[:200]}" if record else "")
            photo = Photo(record, name, self._folder, self._ruled, self._max_pixels)
            for start in range(0, len(places), _AT_ONCE):
                yield PhotoBoxes(self, photo, tuple(places[start : start + _AT_ONCE]))

    def loaded(self, photo: Photo) -> LoadedImage:
        """An image; the last one is kept, as its boxes come in several pieces."""
        if self._kept is None or self._kept[0] is not photo:
            self._kept = None
            self._kept = photo, photo.load()
        return self._kept[1]

    def write(self, unit: PhotoBoxes, encoded: Sequence[list[Any]]) -> list[list[Any]]:
        """Leaves them to the journal: the file is written from it at the end."""
        return [*encoded]

    def finish(self, journal: Journal) -> None:
        """Writes the file beside the one that is there and puts it in its place, unless it is the same."""
        masks = {mask[0]: mask[1:] for record in journal.records() for mask in record}
        part = self._output.with_name(f"{self._output.name}.part")
        with writing(self._output, temporary=(part,)):
            with part.open("w", encoding="ascii") as file:
                file.writelines(self._text(masks))
                file.flush()
                os.fsync(file.fileno())
            if self._output.exists() and filecmp.cmp(part, self._output, shallow=False):
                part.unlink()
            else:
                os.replace(part, self._output)

    def _text(self, masks: Mapping[int, Sequence[Any]]) -> Iterator[str]:
        """The new file, piece by piece."""
        yield "{"
        for number, (name, value) in enumerate(self._content.items()):
            yield f"{',' if number else ''}\n{json.dumps(name)}: "
            if name != "annotations":
                yield json.dumps(value)
                continue
            yield "["
            for place, annotation in enumerate(value):
                mask = masks.get(place)
                yield (",\n" if place else "\n") + json.dumps(self._with(annotation, mask) if mask else annotation)
            yield "\n]"
        yield "\n}\n"

    def _with(self, annotation: Mapping[str, Any], mask: Sequence[Any]) -> dict[str, Any]:
        """An annotation with its mask; a score of the box's own, a detector's, is not overwritten."""
        size, counts, area, score = mask
        return {
            **annotation,
            "segmentation": {"size": size, "counts": counts},
            "area": area,
            "mask_score" if "score" in annotation else "score": score,
            "model_version": self._version,
        }


def needs_mask(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation has a box and no segmentation, and is no crowd: a crowd's box holds no one object."""
    return bool(annotation.get("bbox")) and not annotation.get("iscrowd") and not _outlined(annotation)


def _outlined(annotation: Mapping[str, Any]) -> bool:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        return bool(segmentation.get("counts"))
    return any(bool(part) for part in segmentation) if isinstance(segmentation, list) else bool(segmentation)


def _hashable(identity: Any) -> Any:
    return identity if isinstance(identity, int | str) else repr(identity)
