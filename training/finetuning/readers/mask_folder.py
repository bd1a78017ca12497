"""A folder of `images/` and `masks/`: mask files whose values are the ids of objects."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError
from icmformer.types import BoolMask

from ...data.folders import IMAGE_ENDINGS
from ...data.label_masks import LabelMask, read_label_mask
from ...data.objects import IGNORE
from .annotations import AnnotatedPhoto, Annotation, BadAnnotationError, Photo
from .files import Files
from .label_map import TOO_MANY
from .reading_report import ReadingReport


def has_mask_folder(files: Files) -> bool:
    """Whether an export is of this form, at its top or in the one folder that an archive puts everything into."""
    return _top(files) is not None


def read_mask_folder(files: Files, report: ReadingReport) -> Iterator[AnnotatedPhoto]:
    """The photos of `images/`, each with the mask of its path and name: `a/1.jpg` with `a/1.jpg.png` or `a/1.png`."""
    top = _top(files)
    images, masks = (_below(files, f"{top}{kind}/", report) for kind in ("images", "masks"))
    used = set()
    stems = Counter(_without_ending(name) for name in images)
    for name, file in images.items():
        mask = next((key for key in _mask_names(name, stems) if key in masks), None)
        if mask is None:
            report.skip("no mask", name)
            continue
        used.add(mask)
        try:
            found = _read(masks[mask])
        except ConfigError as error:
            report.skip("a mask that cannot be used", name, str(error).replace(str(masks[mask]), mask))
            continue
        if found.thresholded:
            report.decide("mask with soft edges: from half the brightest value on it is the object", name)
        if found.dropped:
            report.skip(TOO_MANY, f"{found.dropped} of {name}", "ignored in training, not background")
        height, width = found.labels.shape
        values = [int(value) for value in np.unique(found.labels) if value]
        annotations = [
            Annotation(f"object {value}", [_Value(masks[mask], value)], ignored=value == IGNORE) for value in values
        ]
        yield AnnotatedPhoto(Photo(name, file, (height, width)), annotations)
    for mask in sorted(masks.keys() - used):
        report.skip("a mask without a photo", mask)


@dataclass(frozen=True)
class _Value:
    """The pixels of one value of a mask file."""

    file: Path
    value: int

    def draw(self, height: int, width: int) -> BoolMask:
        labels = _read(self.file).labels
        if labels.shape != (height, width):
            raise BadAnnotationError("a mask of another size than its photo", f"{labels.shape[1]} x {labels.shape[0]}")
        inside: NDArray[np.bool_] = labels == self.value
        return inside


def _read(path: Path) -> LabelMask:
    facts = path.stat()
    return _cached(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=2)
def _cached(path: Path, _time: int, _size: int) -> LabelMask:
    return read_label_mask(path)


def _top(files: Files) -> str | None:
    tops = {"", *(f"{PurePosixPath(name).parts[0]}/" for name in files if "/" in name)}
    for top in sorted(tops):
        if all(any(name.startswith(f"{top}{kind}/") for name in files) for kind in ("images", "masks")):
            return top
    return None


def _below(files: Files, folder: str, report: ReadingReport) -> Files:
    found = {}
    for name, file in files.items():
        if name.startswith(folder):
            if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS:
                found[name.removeprefix(folder)] = file
            else:
                report.skip("no image file", name)
    return found


def _without_ending(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _mask_names(name: str, stems: Mapping[str, int]) -> Iterator[str]:
    """Names that a photo's mask may have; that of its stem only if no other photo has the same."""
    stem = _without_ending(name)
    yield from (f"{name}{suffix}" for suffix in sorted(IMAGE_ENDINGS))
    yield name
    if stems[stem] == 1:
        yield from (f"{stem}{suffix}" for suffix in sorted(IMAGE_ENDINGS, key=lambda s: (s != ".png", s)))
        yield from (f"{stem}{suffix.upper()}" for suffix in sorted(IMAGE_ENDINGS))
        yield from (f"{stem}_mask{suffix}" for suffix in sorted(IMAGE_ENDINGS))
