"""What a reader read, skipped and decided, each by name."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

What = Literal["skipped", "decided"]


def printable(text: str) -> str:
    """A text from a file with everything escaped that a terminal or a text file cannot take."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class ReadingReport:
    """Collects what is told of a reading.

    Attributes:
        photos: That have an object.
        objects: Of these photos.
        rows: What was skipped or decided: what of the two, kind, name, and details that may be empty.
    """

    photos: int = 0
    objects: int = 0
    rows: list[tuple[What, str, str, str]] = field(default_factory=list)

    def skip(self, kind: str, name: str, why: str = "") -> None:
        """Notes something that was not used.

        Args:
            kind: The same for all that are counted together, in a few words: "box", "no photo", "NaN coordinate".
            name: Of the thing: photo and annotation.
            why: What is known beyond the kind.
        """
        self._note("skipped", kind, name, why)

    def decide(self, kind: str, name: str, choice: str = "") -> None:
        """Notes a decision that could have been another: `kind` as in `skip`, `choice` what was chosen."""
        self._note("decided", kind, name, choice)

    def _note(self, what: What, kind: str, name: str, told: str) -> None:
        self.rows.append((what, printable(kind)[:100], printable(name), printable(told)))

    def counts(self, what: What) -> dict[str, int]:
        """How many were skipped or decided, by kind, the most frequent first."""
        return dict(Counter(kind for which, kind, _, _ in self.rows if which == what).most_common())

    def lines(self, examples: int = 3) -> list[str]:
        """For people: one line a kind, with some names.

        Args:
            examples: Names a line has at most.
        """
        lines = []
        for what in ("skipped", "decided"):
            for kind, count in self.counts(what).items():
                named = [
                    f"{name} ({told})" if told else name for w, k, name, told in self.rows if (w, k) == (what, kind)
                ]
                more = f", and {count - examples} more" if count > examples else ""
                lines.append(f"{what}: {count} x {kind}: {'; '.join(named)}{more}")
        return lines

    def write(self, path: Path) -> None:
        """Writes all of it as JSON lines."""
        with path.open("w", encoding="utf-8") as file:
            counts = {"skipped": self.counts("skipped"), "decided": self.counts("decided")}
            file.write(json.dumps({"photos": self.photos, "objects": self.objects, **counts}) + "\n")
            for what, kind, name, told in self.rows:
                file.write(json.dumps({"what": what, "kind": kind, "name": name, "told": told}) + "\n")
