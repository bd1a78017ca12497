"""The work itself: from images with boxes to masks, whatever tool the boxes come from and the masks go to.

A tool brings a `BoxSource`. What is done is noted in a `Journal`, so that the same command goes on after a stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tqdm import tqdm

from icmformer.boxes.journal import Journal
from icmformer.errors import IcmformerError, ImageError, PromptError
from icmformer.images.reading import LoadedImage
from icmformer.inference.engine import Engine
from icmformer.runs import MaskRuns
from icmformer.serving.errors import RequestError, status_of
from icmformer.types import Box

DEFAULT_THRESHOLD = 0.7  # docs/boxes.md has the measurements behind it
_COSTS_ITSELF = (ImageError, PromptError, RequestError)
_MOST_TOLD = 20  # failures, each in a line; the rest are counted


class UnavailableError(IcmformerError):
    """A tool that does not answer: the run ends, and the same command goes on."""


class BoxedImage(Protocol):
    """An image and its boxes."""

    @property
    def name(self) -> str:
        """What to call it in a message."""

    @property
    def boxes(self) -> int:
        """How many there are."""

    def load(self) -> LoadedImage:
        """The image, upright.

        Raises:
            ImageError: Nothing that can be opened.
            RequestError: And its kin: nothing that can be fetched. Either costs this image alone.
            UnavailableError: The tool does not answer.
        """

    def box(self, number: int, image: LoadedImage) -> Box:
        """A box, in pixels of the loaded image.

        Raises:
            PromptError: One that cannot be used; or `RequestError`. Either costs this box alone.
        """

    def encode(self, number: int, mask: MaskRuns, score: float) -> Any:
        """A mask as it will be written.

        Args:
            number: Of the box.
            mask: Of the loaded image, not empty.
            score: The network's own estimate of the mask's IoU.
        """


class Unit(Protocol):
    """What is written together: an image with its boxes, or a task with several images."""

    @property
    def key(self) -> str:
        """Names it in the journal: the same in every run as long as its boxes are the same."""

    @property
    def images(self) -> Sequence[BoxedImage]:
        """Its images that have boxes to be segmented."""


class BoxSource(Protocol):
    """Where boxes come from and masks go to."""

    def total(self) -> int | None:
        """How many boxes there are to be segmented, those of earlier runs included; None where that is not known."""

    def units(self, done: Container[str]) -> Iterable[Unit]:
        """The units, in a fixed order. Those whose key is in `done` may be left out where that saves asking for them.

        Raises:
            IcmformerError: The tool does not answer: the run ends, and the same command goes on.
        """

    def write(self, unit: Any, encoded: Sequence[Any]) -> Any:
        """Writes a unit's masks, at least one, as `encode` made them. The journal's line follows.

        A process may be killed between the two. A source that writes elsewhere than to the journal must find out in
        the next run what is there already, and leave those boxes out of its units.

        Returns:
            What the journal is to keep, as JSON; None for nothing.

        Raises:
            RequestError: The tool refuses them, which costs this unit alone.
            UnavailableError: The tool does not answer.
        """

    def finish(self, journal: Journal) -> None:
        """Called once no unit is left to be tried."""


@dataclass
class Tally:
    """What became of boxes.

    Attributes:
        masks: Masks written.
        under: Boxes without a mask since its score is below the threshold.
        failed: Boxes without a mask for another reason, by that reason.
        again: Units that the next run tries again.
    """

    masks: int = 0
    under: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    again: int = 0

    @property
    def boxes(self) -> int:
        """All of them."""
        return self.masks + self.under + sum(self.failed.values())

    def add(self, other: Tally) -> None:
        """Counts another's in."""
        self.masks += other.masks
        self.under += other.under
        self.failed += other.failed
        self.again += other.again

    def noted(self) -> dict[str, Any]:
        """As the journal has it; see `of`."""
        return {"masks": self.masks, "under": self.under, "failed": dict(self.failed)}

    @staticmethod
    def of(journal: Journal) -> Tally:
        """Of all runs that the journal tells of."""
        tally = Tally()
        for counts in journal.counts():
            tally.add(Tally(counts["masks"], counts["under"], Counter(counts["failed"])))
        return tally

    def __str__(self) -> str:
        failed = sum(self.failed.values())
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.failed.most_common())
        text = f"{self.boxes:,} boxes: {self.masks:,} masks written, {self.under:,} under the threshold"
        return f"{text}, {failed:,} failed" + (f" ({reasons})" if failed else "")


@dataclass
class Work:
    """A run.

    Attributes:
        source: Of boxes.
        journal: What is done.
        make_engine: Called when the first box needs it.
        threshold: Least score of a mask that is written.
        limit: Most units of this run; None for all.
        tell: Takes a line about something that failed.
        progress: See `icmformer.boxes.opening.Opened`.
    """

    source: BoxSource
    journal: Journal
    make_engine: Callable[[], Engine]
    threshold: float = DEFAULT_THRESHOLD
    limit: int | None = None
    tell: Callable[[str], None] = tqdm.write
    progress: Callable[[], str] | None = None
    _engine: Engine | None = field(default=None, init=False)
    _told: int = field(default=0, init=False)

    def run(self) -> Tally:
        """Segments and writes what is left.

        Returns:
            What became of all boxes, those of earlier runs included.

        Raises:
            IcmformerError: Nothing more can be done for now; what is done is in the journal.
        """
        tally = Tally.of(self.journal)
        with tqdm(total=self.source.total(), initial=tally.boxes, unit="box", desc="boxes") as bar:
            for number, unit in enumerate(self._left()):
                if number == self.limit:
                    break
                tally.add(self._done(unit, bar))
                bar.set_postfix_str(", ".join(self._beside(tally)), refresh=False)
        self.source.finish(self.journal)
        return tally

    def _beside(self, tally: Tally) -> Iterator[str]:
        """What the bar says beside the number of boxes."""
        if self.progress:
            yield self.progress()
        yield f"{tally.masks:,} masks"

    def _left(self) -> Iterator[Unit]:
        return (unit for unit in self.source.units(self.journal) if unit.key not in self.journal)

    def _done(self, unit: Unit, bar: tqdm[Any]) -> Tally:
        """One unit: segmented, written and noted."""
        tally, encoded, record = Tally(), [], None
        for image in unit.images:
            encoded += self._segmented(image, tally, bar)
        if encoded:
            try:
                record = self.source.write(unit, encoded)
                tally.masks = len(encoded)
            except RequestError as error:
                self._fail(unit.images[0].name, error, tally, len(encoded))
                tally.again = 1
        if not tally.again:
            self.journal.note(unit.key, tally.noted(), record)
        return tally

    def _segmented(self, image: BoxedImage, tally: Tally, bar: tqdm[Any]) -> list[Any]:
        """The masks of an image's boxes, encoded."""
        try:
            loaded = image.load()
        except _COSTS_ITSELF as error:  # the next run may find it
            self._fail(image.name, error, tally, image.boxes)
            tally.again = 1
            bar.update(image.boxes)
            return []
        if self._engine is None:
            self._engine = self.make_engine()
        encoded = []
        for number in range(image.boxes):
            try:
                found = self._engine.segment(loaded, box=image.box(number, loaded))
                if found.score >= self.threshold and found.runs:
                    encoded.append(image.encode(number, found.runs, found.score))
                else:
                    tally.under += 1
            except _COSTS_ITSELF as error:
                self._fail(image.name, error, tally)
            bar.update()
        return encoded

    def _fail(self, name: str, error: Exception, tally: Tally, boxes: int = 1) -> None:
        tally.failed[status_of(error)[1]] += boxes
        self._told += 1
        if self._told <= _MOST_TOLD:
            self.tell(f"{name}: {error}")
        elif self._told == _MOST_TOLD + 1:
            self.tell("more failures are counted only")
