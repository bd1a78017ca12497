"""One annotation session a photo: which, where an export has several."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from training.finetuning.readers.annotations import AnnotatedPhoto
from training.finetuning.readers.reading_report import ReadingReport

ANNOTATED_AGAIN = "photo annotated several times"


def choose(photos: Iterable[AnnotatedPhoto], report: ReadingReport) -> list[AnnotatedPhoto]:
    """Each photo once, with one of its sessions.

    Of several sessions, one that outlines something comes before one that does not, then ground truth, then the one
    that was changed last, then the one that the export has last.

    Args:
        photos: In the export's order.
        report: Is told of each photo that came several times.
    """
    by_file: dict[str | bytes, list[AnnotatedPhoto]] = {}
    for item in photos:
        file = item.photo.file
        key = hashlib.sha256(file).digest() if isinstance(file, bytes) else str(file.resolve())
        by_file.setdefault(key, []).append(item)
    chosen = []
    for items in by_file.values():
        ranks = [(bool(p.annotations), p.ground_truth, p.updated, place) for place, p in enumerate(items)]
        best = max(ranks)[-1]
        if len(items) > 1:
            others = ", ".join(_told(p) for place, p in enumerate(items) if place != best)
            report.decide(ANNOTATED_AGAIN, items[best].photo.identity, f"{_told(items[best])} is used, not {others}")
        chosen.append(items[best])
    return chosen


def _told(item: AnnotatedPhoto) -> str:
    number = len(item.annotations)
    facts = [item.photo.group, "ground truth" if item.ground_truth else "", item.updated]
    told = ", ".join(fact for fact in facts if fact)
    return f"the one of {number} object{'s' if number != 1 else ''}{f' ({told})' if told else ''}"
