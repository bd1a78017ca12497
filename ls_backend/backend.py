"""Label Studio's side of a request, whatever brought it: the routes of `app`, or the official runtime."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any

from icmformer import CleanUp, Engine, IcmformerError
from icmformer.fetching.filecache import FileCache
from icmformer.fetching.label_studio import LabelStudio
from icmformer.inference.cache import ByteLRU
from icmformer.serving.click_log import ClickLog
from icmformer.serving.core import SUPERSEDED, Outcome, ServingCore, SourceImage
from icmformer.serving.errors import TrainingRefusedError
from icmformer.serving.logs import current_request
from icmformer.serving.metrics import Metrics
from icmformer.serving.queue import RequestQueue, Turn
from icmformer.serving.version_tags import model_name
from icmformer.serving.version_watch import starting_engine, watch_versions
from icmformer.types import MaskResult
from icmformer.weights.versions import VersionStore, store_of

from . import codec, saved_annotations
from .codec import InteractiveRequest
from .images import DecodedImage, Images
from .known_versions import KnownVersion, KnownVersions
from .labelling_config import read_config
from .saved_annotations import Region, Save
from .settings import BackendSettings
from .task_image import image_url
from .training_jobs import TrainingJobs
from .training_options import OFF

log = logging.getLogger("icmformer.label_studio")
_PREFETCHES = 8
JSON = dict[str, Any]


class LabelStudioCodec:
    """Reads Label Studio's requests and writes its replies.

    Args:
        images: Loads a task's images.
        polygon_points: Most points of a polygon.
    """

    tool = "label studio"
    ordered = True
    image_stage = "fetch"
    clean_up: CleanUp | None = None

    def __init__(self, images: Images, polygon_points: int) -> None:
        self.images, self._polygon_points = images, polygon_points

    def model_name(self, engine: Engine) -> str:
        return model_name(engine.weights.name, engine.weights.sha256, engine.profile.name)

    def parse(self, body: Any) -> InteractiveRequest | None:
        return codec.parse(body)

    def image(self, request: InteractiveRequest, turn: Turn | None) -> SourceImage:
        return SourceImage(self.images.load(request.url, request.task, turn))

    def encode(self, request: InteractiveRequest, result: MaskResult, model: str) -> JSON:
        regions = codec.answer(request, result.runs, result.score, self._polygon_points, model)
        return {"results": [{"result": regions, "score": result.score, "model_version": model}]}

    def no_mask(self) -> JSON:
        return {"results": []}


class Backend:
    """What answers Label Studio. Safe to call from several threads.

    Args:
        engine: Ready to segment.
        images: Loads a task's images.
        requests: Where requests wait for the engine.
        polygon_points: Most points of a polygon.
        click_log: Where clicks and accepted masks are written down; nowhere by default.
        store: Holds the versions of the weights, where they have any: masks that other replicas made are known by it.
    """

    def __init__(
        self,
        engine: Engine,
        images: Images,
        requests: RequestQueue,
        polygon_points: int,
        click_log: ClickLog | None = None,
        store: VersionStore | None = None,
    ) -> None:
        self.images, self.requests = images, requests
        self.metrics = Metrics(engine, images.decoded)
        label_studio = LabelStudioCodec(images, polygon_points)
        self.core: ServingCore[InteractiveRequest, JSON] = ServingCore(
            engine, label_studio, requests, click_log, self.metrics
        )
        self._versions = KnownVersions(self.core.weights_served, store)
        self.trainings: TrainingJobs | None = None
        self._prefetches: queue.Queue[tuple[str, str]] = queue.Queue(_PREFETCHES)  # address, task
        threading.Thread(target=self._prefetch_all, name="prefetch", daemon=True).start()

    @property
    def model_version(self) -> str:
        """Names the model in use."""
        return self.core.model

    @staticmethod
    def from_settings(settings: BackendSettings) -> Backend:
        """Loads the weights and warms up.

        Raises:
            IcmformerError: Weights, device or settings that cannot be used.
        """
        click_log = ClickLog(settings.click_log)
        engine = starting_engine(settings)
        decoded: ByteLRU[DecodedImage] = ByteLRU(settings.image_cache_mb << 20)
        files = FileCache(settings.fetched_files, settings.file_cache_bytes)
        studio = LabelStudio.from_settings(settings)
        images = Images(studio, files, decoded, settings.max_pixels)
        requests = RequestQueue(settings.places, settings.queue, settings.queue_seconds)
        store = store_of(settings.weights, settings)
        backend = Backend(engine, images, requests, settings.polygon_points, click_log, store)
        watch_versions(backend.core, settings)
        if settings.training_dir is not None:
            backend.trainings = TrainingJobs(settings, backend.metrics)
            backend.trainings.begin()
        return backend

    def predict(self, body: Any) -> Outcome[JSON]:
        """Answers a request of Label Studio's `/predict`; never raises."""
        outcome = self.core.respond(body, current_request.get())
        facts = {"facts": outcome.log_line()}
        if outcome.error:
            level = logging.ERROR if outcome.fault else logging.WARNING
            told = repr(outcome.fault) if outcome.fault else outcome.error
            log.log(level, "%s: %s", outcome.kind, told, exc_info=outcome.fault, extra=facts)
        elif outcome.size is not None:
            log.info(
                "task %s: %d clicks%s, %s, %s",
                outcome.request.facts["task"],
                outcome.request.facts["clicks"],
                " and a box" if outcome.request.boxes else "",
                f"score {outcome.score:.2f}" if outcome.kind == "mask" else "empty mask",
                ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in outcome.timings.items() if "." not in stage),
                extra=facts,
            )
        elif outcome.kind != SUPERSEDED:  # a page was opened
            self._prefetch(body)
        return outcome

    def train(self, body: Any) -> JSON:
        """Answers Label Studio's *Start Training*.

        Raises:
            RequestError: A body that is not what Label Studio sends.
            TrainingRefusedError: Trainings are off, or this one cannot be started.
        """
        if self.trainings is None:
            raise TrainingRefusedError(OFF)
        return self.trainings.press(body)

    def training(self) -> JSON:
        """How the last training stands."""
        return {"state": "off", "reason": OFF, "runs": []} if self.trainings is None else self.trainings.status()

    def saved(self, body: Any) -> Save | None:
        """Reads what Label Studio's webhook says of a saved annotation; counts it and writes it to the click log.

        The metric counts the masks of an annotation's first save, which is told once: whichever replica hears of it,
        none is counted twice.

        Returns:
            The save; None where no annotation was saved.

        Raises:
            RequestError: A body that is not what Label Studio sends.
        """
        save = saved_annotations.parse(body)
        if save is None:
            return None
        makers = [self._versions.find(region.version) for region in save.regions]
        if save.regions or not save.first:  # one that is left without our masks counts as such
            regions = [_logged(*kept) for kept in zip(save.regions, makers, strict=True)]
            self.core.click_log.write("accepted", "label studio", annotation=save.annotation, regions=regions)
        for region, maker in zip(save.regions, makers, strict=True) if save.first else ():
            self.metrics.accepted(region.clicks, maker.weights if maker else None)
        if save.first and self.trainings is not None:
            self.trainings.annotated(body)
        return save

    def _prefetch(self, body: Any) -> None:
        """Has the images of an opened task fetched and encoded in the background; a busy backend lets it be."""
        tasks = body.get("tasks") if isinstance(body, Mapping) else None
        if not isinstance(tasks, list) or len(tasks) != 1:
            return
        try:
            task = codec.first_task(body)
            config, identity = body.get("label_config"), codec.task_id(task)
            for tag in read_config(config if isinstance(config, str) else "").values():
                self._prefetches.put_nowait((image_url(task, tag, 0 if tag.several else None), identity))
        except IcmformerError as error:
            log.warning("not prefetched: %s", error)
        except queue.Full:
            log.debug("too busy to prefetch")

    def _prefetch_all(self) -> None:
        while True:
            url, task = self._prefetches.get()
            try:
                image = self.images.load(url, task)
                if not self.requests.waiting:
                    with self.requests.enter():
                        self.core.engine.prefetch(image)
            except IcmformerError as error:
                log.warning("not prefetched: %s", error)
            except Exception:
                log.exception("prefetching failed")
            finally:
                self._prefetches.task_done()


def _logged(region: Region, maker: KnownVersion | None) -> JSON:
    """A kept mask's facts for the click log."""
    facts = {"id": region.id, "clicks": region.clicks, "edited": region.edited}
    known = {"version": region.version, "model": maker and maker.model}
    return facts | {name: value for name, value in known.items() if value is not None}
