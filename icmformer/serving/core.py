"""From a request to its outcome, for every tool: read it, get the image, wait for a place, segment, encode, count.

A tool brings a `Codec`: what its requests look like, where its images come from, and how its replies are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch

from icmformer.geometry import CleanUp
from icmformer.images.reading import LoadedImage
from icmformer.inference.engine import Caches, Engine
from icmformer.serving.click_log import ClickLog
from icmformer.serving.errors import SupersededError, status_of
from icmformer.serving.queue import RequestQueue, Turn
from icmformer.serving.requests import ClickRequest, Summary
from icmformer.settings import Settings
from icmformer.timings import Timings
from icmformer.types import Box, Click, MaskResult

if TYPE_CHECKING:
    from icmformer.serving.metrics import Metrics

MASK, EMPTY, NOTHING_CLICKED, SUPERSEDED = "mask", "empty", "nothing clicked", "superseded"


@dataclass(frozen=True)
class SourceImage:
    """An image to segment, and whether it was decoded before (None where its source does not tell)."""

    image: LoadedImage
    kept: bool | None = None


R = TypeVar("R", bound=ClickRequest)
Reply = TypeVar("Reply")
Reply_co = TypeVar("Reply_co", covariant=True)


class Codec(Protocol[R, Reply_co]):
    """A tool's side of a request.

    Attributes:
        tool: Its name in the click log.
        ordered: Whether its clicks come in the order in which they were made.
        image_stage: What getting an image is called in timings.
        clean_up: What to tidy in masks.
    """

    tool: str
    ordered: bool
    image_stage: str
    clean_up: CleanUp | None

    def model_name(self, engine: Engine) -> str:
        """How replies and logs name what an engine serves: another text for other masks."""
        ...

    def parse(self, body: Any) -> R | None:
        """Reads a request's body; None where it is not about an object.

        Raises:
            RequestError: A body that is not what the tool sends.
        """
        ...

    def image(self, request: R, turn: Turn | None) -> SourceImage:
        """The image that was clicked on.

        Raises:
            RequestError: One that cannot be had.
            ImageError: One that cannot be opened.
            SupersededError: A newer request of the object came.
        """
        ...

    def encode(self, request: R, result: MaskResult, model: str) -> Reply_co:
        """The reply with a mask, and, where the tool has a place for it, the name of the model that made it.

        Raises:
            NothingFoundError: An empty mask, which the tool has no words for.
        """
        ...

    def no_mask(self) -> Reply_co:
        """The reply without one."""
        ...


@dataclass(frozen=True)
class Outcome(Generic[Reply]):
    """What a request came to.

    Attributes:
        kind: `mask`, `empty`, `nothing clicked` or `superseded`; of a refusal the word that `serving.errors` has.
        reply: For the tool; None for a refusal.
        status: HTTP's.
        model: The model's name, as `Codec.model_name` has it: the one that made the mask, else the one in use.
        error: What is wrong, in a line; empty where nothing is.
        fault: The exception behind a fault of our own, for the log alone.
        timings: Milliseconds by stage, those of the engine as `segment.STAGE`.
        request: What the request holds.
        size: (height, width) of the image.
        image_kept: Whether it was decoded before.
        score: Of the mask.
        area: Of the mask, of the image's.
    """

    kind: str
    reply: Reply | None = None
    status: int = 200
    model: str = ""
    error: str = ""
    fault: Exception | None = None
    timings: Timings = field(default_factory=Timings)
    request: Summary = field(default_factory=Summary)
    size: tuple[int, int] | None = None
    image_kept: bool | None = None
    score: float | None = None
    area: float | None = None

    def log_line(self) -> dict[str, Any]:
        """What there is to log."""
        request = self.request
        known = {
            "status": self.status if self.error else None,
            "kind": self.kind if self.error else None,
            "result": None if self.error else self.kind,
            "positive": request.positive,
            "negative": request.negative,
            "box": None if request.boxes is None else bool(request.boxes),
            "height": self.size and self.size[0],
            "width": self.size and self.size[1],
            "image_kept": self.image_kept,
            "area": self.area,
            "score": self.score,
            **request.facts,
        }
        spent = {f"{stage}_ms": round(milliseconds, 1) for stage, milliseconds in self.timings.items()}
        return {name: value for name, value in known.items() if value is not None} | spent


@dataclass(frozen=True)
class ServedModel:
    """An engine, and how replies and logs name what it serves."""

    engine: Engine
    name: str


class ServingCore(Generic[R, Reply]):
    """Answers a tool's requests with one engine at a time. Safe to call from several threads.

    `switch` puts another engine in its place between two requests: each request is answered by the one engine that it
    found, and its reply names that.

    Args:
        engine: Ready to segment.
        codec: The tool's side.
        queue: Where requests wait for the engine; None where the tool's runtime sends one at a time.
        click_log: Where clicks are written down; nowhere by default.
        metrics: Where requests are counted; nowhere by default.
    """

    def __init__(
        self,
        engine: Engine,
        codec: Codec[R, Reply],
        queue: RequestQueue | None = None,
        click_log: ClickLog | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.codec, self.queue = codec, queue
        self.served = ServedModel(engine, codec.model_name(engine))
        self.weights_served = {self.served.name: engine.weights.name}  # by model's name, of all until now
        self.click_log, self.metrics = click_log or ClickLog(None), metrics
        if queue and metrics:
            queue.tell = metrics.waiting

    @property
    def engine(self) -> Engine:
        """The one in use."""
        return self.served.engine

    @property
    def model(self) -> str:
        """Its name."""
        return self.served.name

    def switch(self, engine: Engine) -> None:
        """Answers with another engine from the next request on; requests in progress end with theirs.

        Args:
            engine: Ready to segment, and warm.
        """
        served = ServedModel(engine, self.codec.model_name(engine))
        self.weights_served[served.name] = engine.weights.name
        self.served = served
        if self.metrics:
            self.metrics.switched(engine)

    def respond(self, body: Any, request_id: str = "") -> Outcome[Reply]:
        """Answers a request; never raises.

        Args:
            body: As the tool's codec reads it.
            request_id: For the click log.
        """
        start = time.perf_counter()
        outcome = Outcome[Reply](NOTHING_CLICKED, model=self.model)
        try:
            for known in self._progress(body, outcome):
                outcome = known
        except SupersededError:
            outcome = replace(outcome, kind=SUPERSEDED, reply=self.codec.no_mask())
        except Exception as error:
            outcome = refused(error, outcome)
        self._count(outcome, request_id, 1000 * (time.perf_counter() - start))
        return outcome

    def _progress(self, body: Any, outcome: Outcome[Reply]) -> Iterator[Outcome[Reply]]:
        """What is known of a request after each stage; the last is its outcome."""
        codec, timings = self.codec, outcome.timings
        with timings.stage("parse"):
            request = codec.parse(body)
        if request is None:
            yield replace(outcome, reply=codec.no_mask())
            return
        outcome = replace(outcome, request=request.summary())
        yield outcome
        if request.empty:
            yield replace(outcome, reply=codec.no_mask())
            return
        # Each click of an object comes with those before it: requests with the same group are about the same object.
        with self.queue.arrival(outcome.request.group) if self.queue else nullcontext() as turn:
            with timings.stage(codec.image_stage):
                source = codec.image(request, turn)
            height, width = source.image.pixels.shape[:2]
            outcome = replace(outcome, size=(height, width), image_kept=source.kept)
            yield outcome
            clicks, box = request.prompt(height, width)
            with self._place(turn, timings), timings.stage("segment"):
                served = self.served  # once: mask, reply and log are of this one
                result = self.segment(source.image, clicks, box, served)
        timings.within("segment", result.timings)
        with timings.stage("encode"):
            reply = codec.encode(request, result, served.name)
        kind = MASK if result.runs else EMPTY
        area = round(result.runs.share, 5)
        yield replace(outcome, kind=kind, reply=reply, model=served.name, score=round(result.score, 3), area=area)

    def segment(
        self, image: LoadedImage, clicks: Sequence[Click], box: Box | None, served: ServedModel | None = None
    ) -> MaskResult:
        """The engine's result for a tool's clicks; by the engine in use unless another one is given.

        Raises:
            PromptError: A prompt that does not fit the image.
        """
        engine = (served or self.served).engine
        return engine.segment(image, clicks, box, ordered=self.codec.ordered, clean_up=self.codec.clean_up)

    @contextmanager
    def _place(self, turn: Turn | None, timings: Timings) -> Iterator[None]:
        """A place at the engine, once one is free."""
        with ExitStack() as stack:
            if self.queue:
                with timings.stage("wait"):
                    stack.enter_context(self.queue.enter(turn))
            yield

    def _count(self, outcome: Outcome[Reply], request_id: str, milliseconds: float) -> None:
        """Counts a request, and writes its clicks down."""
        if self.metrics and outcome.error:
            self.metrics.refused(outcome.kind)
        elif self.metrics:
            counts = outcome.kind != SUPERSEDED
            self.metrics.prediction(
                outcome.kind, outcome.timings if counts else {}, outcome.request.prompts if counts else 0
            )
        if outcome.kind in (MASK, EMPTY):
            self.click_log.write(
                "click",
                self.codec.tool,
                request=request_id,
                result=outcome.kind,
                positive=outcome.request.positive,
                negative=outcome.request.negative,
                box=bool(outcome.request.boxes),
                area=outcome.area,
                score=outcome.score,
                milliseconds=round(milliseconds, 1),
                model=outcome.model,
                **outcome.request.logged,
            )


def refused(error: Exception, outcome: Outcome[Reply]) -> Outcome[Reply]:
    """The outcome for an error, with what was known before; of a fault of our own the log alone says more."""
    status, kind = status_of(error)
    if status == 500:
        return replace(outcome, status=status, kind=kind, error="the server failed; its log says more", fault=error)
    return replace(outcome, status=status, kind=kind, error=" ".join(str(error).split()))


def load_engine(settings: Settings, caches: Caches | None = None) -> Engine:
    """An engine as the settings say, which has seen its first image.

    Args:
        settings: Name weights, device and the rest.
        caches: Another engine's, to share: what is kept there is kept by network. New ones by default.

    Raises:
        IcmformerError: Weights, device or settings that cannot be used.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    engine = Engine.from_weights(settings.weights, caches=caches, settings=settings)
    engine.warm_up()
    return engine
