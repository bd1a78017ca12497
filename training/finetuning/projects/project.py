"""What a project of an annotation tool has to offer to be fine-tuned on straight from the tool."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from icmformer.disk import flush, writing

from ..readers.annotations import AnnotatedPhoto, AnnotationError
from ..readers.reading_report import ReadingReport

MARK = "complete.json"
"""File of a snapshot that is whole."""


class Project(Protocol):
    """Annotations that are read over a tool's API: first all that is drawn, into a snapshot, then the photos."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def identity(self) -> str:
        """What decides the run: address and number, no secret."""
        ...

    def snapshot(self, folder: Path) -> None:
        """Writes what is drawn now into a folder; a call that was stopped goes on, and a whole snapshot stays.

        Raises:
            IcmformerError: The tool cannot be reached, or refuses; the same call goes on later.
        """
        ...

    def photos(self, folder: Path, report: ReadingReport) -> Iterator[AnnotatedPhoto]:
        """The annotated photos of a whole snapshot, each once; their files are fetched one at a time.

        Args:
            folder: Of the snapshot.
            report: Is told what was passed over and decided.

        Raises:
            IcmformerError: The tool cannot be reached, or refuses; the same call goes on later, with what was fetched.
        """
        ...


def read_file(path: Path) -> Any:
    """The JSON of a file; None where there is none.

    Raises:
        AnnotationError: It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        told = f"{path} is damaged ({error}): delete {path.parent}, and the same command reads the project again"
        raise AnnotationError(told) from error


def write_file(path: Path, content: Any) -> None:
    """Writes JSON into a file that is whole or not there.

    Raises:
        DiskFullError: There is no room for it.
    """
    part = path.with_suffix(".part")
    with writing(path, temporary=(part,)):
        part.write_text(json.dumps(content), encoding="utf-8")
        flush(part)
        os.replace(part, path)
