"""One annotation session a photo: which, where an export has several."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

from .annotations import AnnotatedPhoto
from .photo_finder import NO_PHOTO, SEVERAL_PHOTOS, PhotoFinder, common_tail, name_parts
from .reading_report import ReadingReport

ANNOTATED_AGAIN = "photo annotated several times"


def choose(
    photos: Iterable[AnnotatedPhoto], report: ReadingReport, finder: PhotoFinder | None = None
) -> list[AnnotatedPhoto]:
    """Each photo once, with one of its sessions; the others are behind it, for where nothing of it can be drawn.

    Of several sessions, one that outlines something comes before one that does not, then ground truth, then the one
    that was changed last, then the one that the export has last.

    Args:
        photos: In the export's order.
        report: Is told of each photo that came several times.
        finder: Found the files; tells different photos of one name apart of which only one is there.
    """
    by_file: dict[str | bytes, list[AnnotatedPhoto]] = {}
    for item in photos:
        file = item.photo.file
        key = hashlib.sha256(file).digest() if isinstance(file, bytes) else str(file.resolve())
        by_file.setdefault(key, []).append(item)
    chosen = []
    for found in by_file.values():
        items = _of_one_photo(found, finder, report)
        if not items:
            continue
        places = range(len(items))
        ranked = sorted(places, key=lambda i: (_rank(items[i]), i), reverse=True)
        best, *others = [items[place] for place in ranked]
        if others:
            told = ", ".join(_told(item) for item in others)
            report.decide(ANNOTATED_AGAIN, best.photo.identity, f"{_told(best)} is used, not {told}")
        chosen.append(dataclasses.replace(best, others=tuple(others)))
    return chosen


def _rank(item: AnnotatedPhoto) -> tuple[bool, bool, str]:
    return bool(item.annotations), item.ground_truth, item.updated


def _of_one_photo(
    items: list[AnnotatedPhoto], finder: PhotoFinder | None, report: ReadingReport
) -> list[AnnotatedPhoto]:
    """The sessions on one file whose paths can be its own.

    With `train/a.png` alone, `test/a.png` is another photo. With `a.png` alone, `x/a.png` and `y/a.png` are two, and
    nothing tells which one is there.
    """
    file = items[0].photo.file
    if finder is None or isinstance(file, bytes):
        return items
    paths = [name_parts(item.photo.path or item.photo.identity) for item in items]
    tails = [common_tail(finder.parts(file), path) for path in paths]
    kept = []
    for item, path, tail in zip(items, paths, tails, strict=True):
        if tail < max(tails):
            report.skip(NO_PHOTO, item.photo.identity, "the file of that name is another photo's")
        else:
            kept.append((path, item))
    longest = max((path for path, _ in kept), key=len)
    if all(common_tail(longest, path) == len(path) for path, _ in kept):
        return [item for _, item in kept]
    for _, item in kept:
        report.skip(SEVERAL_PHOTOS, item.photo.identity, "photos of several folders, of which one file is there")
    return []


def _told(item: AnnotatedPhoto) -> str:
    number = len(item.annotations)
    facts = [item.photo.group, "ground truth" if item.ground_truth else "", item.updated]
    told = ", ".join(fact for fact in facts if fact)
    return f"the one of {number} object{'s' if number != 1 else ''}{f' ({told})' if told else ''}"
