"""The photos of an export, written as running numbers into the run's folder, whatever the export calls them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.finetuning.readers.annotations import AnnotatedPhoto
from training.finetuning.readers.reading_report import ReadingReport


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


def prepare_photos(photos: Iterable[AnnotatedPhoto], out: Path, report: ReadingReport) -> list[PreparedPhoto]:
    """Writes photos and label maps; what cannot be used is left out and reported.

    Args:
        photos: One at a time.
        out: Folder for `images/` and `masks/`.
        report: Is told what was left out and decided.

    Returns:
        Those that have an object, in the export's order.
    """
    raise NotImplementedError
