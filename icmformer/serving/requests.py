"""What the serving core asks of a tool's requests. No torch here: codecs import it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from icmformer.types import Box, Click


@dataclass(frozen=True)
class Summary:
    """What a request holds.

    Attributes:
        positive: Clicks on the object; None, like the next two, where the request could not be read.
        negative: Clicks off it.
        boxes: Boxes around it.
        group: Names the object, where the tool tells: a newer request of a group supersedes those that still wait.
        facts: Further ones for the server's log.
        logged: Further ones for the click log.
    """

    positive: int | None = None
    negative: int | None = None
    boxes: int | None = None
    group: Hashable = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    logged: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompts(self) -> int:
        """Clicks and boxes."""
        return (self.positive or 0) + (self.negative or 0) + (self.boxes or 0)


class ClickRequest(Protocol):
    """One object that an annotator is clicking on, in a tool's own coordinates."""

    @property
    def empty(self) -> bool:
        """Whether nothing says where the object is, so that the image is not needed."""
        ...

    def summary(self) -> Summary:
        """What it holds."""
        ...

    def prompt(self, height: int, width: int) -> tuple[tuple[Click, ...], Box | None]:
        """Clicks and box in pixels of an image of `height` x `width`.

        Raises:
            RequestError: They do not fit the image.
            PromptError: A box without area.
        """
        ...
