"""What a tool's side of `icmformer boxes` brings: a module with `open_boxes`, which the command loads by name."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from icmformer.boxes.work import BoxSource
from icmformer.settings import Settings


@dataclass(frozen=True)
class Opened:
    """What there is to do.

    Attributes:
        source: The boxes.
        journal: Where to note what is done, unless --journal says so.
        run: What the journal is of, beside weights and threshold: facts by name, without secrets. With another one of
            them, the journal is refused.
        place: Where the masks are afterwards, in words.
        progress: How far the source has been gone through, in a word or two for the bar, such as "task 3 of 9".
    """

    source: BoxSource
    journal: Path
    run: Mapping[str, Any]
    place: str
    progress: Callable[[], str] | None = None


class Module(Protocol):
    """A tool's module."""

    def open_boxes(self, args: argparse.Namespace, version: str) -> Opened:
        """What the options name.

        Args:
            args: The command's options, see `icmformer/cli/boxes.py`.
            version: Of the weights, to be written beside each mask.

        Raises:
            IcmformerError: Options that cannot be used, or a tool that does not answer.
        """


def cached_journal(settings: Settings, **facts: Any) -> Path:
    """A journal in the cache folder, for tools whose masks go to a server: another one for other facts."""
    name = hashlib.blake2b(repr(sorted(facts.items())).encode(), digest_size=8).hexdigest()
    return settings.cache_dir / "boxes" / f"{name}.jsonl"
