"""What a run passes over because it cannot be read: named once, counted, and too much of it ends the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from icmformer.disk import writing
from icmformer.errors import TrainingError, UnreadableImageError

UNREADABLE = "unreadable.jsonl"
"""The file in a run's folder that lists them, one a line: `image`, `why` and `seen`, the samples seen until then."""
HANDFUL = 5
"""So many images are passed over whatever share of all they are, unless none is to be."""


def most_unreadable(images: int, share: float) -> int:
    """How many of so many images a run passes over before it ends; none where the share is 0."""
    return max(HANDFUL, int(share * images)) if share else 0


def too_many(found: int, images: int, share: float, first: UnreadableImageError) -> TrainingError | None:
    """The error that ends a run, where more images are unreadable than may be."""
    most = most_unreadable(images, share)
    if found <= most:
        return None
    return TrainingError(
        f"{found:,} of {images:,} images cannot be read, and at most {most:,} may be (data.unreadable: {share:g}); "
        f"the first: {first}"
    )


class Unreadable:
    """The images that a run passed over.

    What an earlier part of the run found stays in the file, but does not count for the limit: it may be mended by now.

    Args:
        out: The run's folder, for the process that writes; None for the others.
        images: Images there are, those that cannot be read included.
        share: Share of them that may be unreadable.
    """

    def __init__(self, out: Path | None, images: int, share: float) -> None:
        self._file = out / UNREADABLE if out else None
        self._images, self._share = images, share
        self._found: dict[str, UnreadableImageError] = {}
        self._listed = set(_listed(self._file)) if self._file else set[str]()

    def add(self, errors: Iterable[UnreadableImageError], seen: int) -> None:
        """Names what is new on stderr, and lists it in the run's folder.

        Raises:
            DiskFullError: There is no room to list it.
        """
        for error in errors:
            if error.image in self._found:
                continue
            self._found[error.image] = error
            if self._file is None:
                continue
            tqdm.write(f"cannot be read, passed over: {error}", file=sys.stderr)
            if error.image not in self._listed:
                self._listed.add(error.image)
                row = {"image": error.image, "why": error.why, "seen": seen}
                with writing(self._file):
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    with self._file.open("a") as file:
                        file.write(json.dumps(row) + "\n")

    @property
    def too_many(self) -> TrainingError | None:
        """The error that ends the run, where more are unreadable than may be."""
        first = next(iter(self._found.values()), None)
        return too_many(len(self._found), self._images, self._share, first) if first else None

    def __str__(self) -> str:
        """What was passed over so far, by all parts of the run; empty for nothing."""
        count = len(self._listed)
        if not count:
            return ""
        return f"{count:,} image{'s' if count > 1 else ''} could not be read and {'were' if count > 1 else 'was'} " + (
            f"passed over: {self._file}"
        )


def _listed(file: Path) -> Iterable[str]:
    if not file.is_file():
        return
    for line in file.read_text().splitlines():
        try:
            yield str(json.loads(line)["image"])
        except (ValueError, KeyError, TypeError):  # cut short by a kill
            continue
