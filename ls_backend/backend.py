"""Label Studio's side of a request, whatever brought it: the routes of `app`, or the official runtime."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any

from icmformer import CleanUp, Engine, IcmformerError
from icmformer.inference.cache import ByteLRU
from icmformer.serving.click_log import ClickLog
from icmformer.serving.core import SUPERSEDED, Outcome, ServingCore, SourceImage, load_engine
from icmformer.serving.logs import current_request
from icmformer.serving.metrics import Metrics
from icmformer.serving.queue import RequestQueue, Turn
from icmformer.types import MaskResult
from ls_backend import codec, saved_annotations
from ls_backend.codec import InteractiveRequest
from ls_backend.fetch import LabelStudio
from ls_backend.filecache import FileCache
from ls_backend.images import DecodedImage, Images
from ls_backend.labelling_config import read_config
from ls_backend.saved_annotations import Save
from ls_backend.settings import BackendSettings
from ls_backend.task_image import image_url

log = logging.getLogger("icmformer.label_studio")
_PREFETCHES = 8
JSON = dict[str, Any]


class LabelStudioCodec:
    """Reads Label Studio's requests and writes its replies.

    Args:
        images: Loads a task's images.
        polygon_points: Most points of a polygon.
        model_version: Of replies.
    """

    tool = "label studio"
    ordered = True
    image_stage = "fetch"
    clean_up: CleanUp | None = None

    def __init__(self, images: Images, polygon_points: int, model_version: str) -> None:
        self.images, self._polygon_points, self._model_version = images, polygon_points, model_version

    def parse(self, body: Any) -> InteractiveRequest | None:
        return codec.parse(body)

    def image(self, request: InteractiveRequest, turn: Turn | None) -> SourceImage:
        return SourceImage(self.images.load(request.url, request.task, turn))

    def encode(self, request: InteractiveRequest, result: MaskResult) -> JSON:
        regions = codec.answer(request, result.mask, result.score, self._polygon_points)
        return {"results": [{"result": regions, "score": result.score, "model_version": self._model_version}]}

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
    """

    def __init__(
        self,
        engine: Engine,
        images: Images,
        requests: RequestQueue,
        polygon_points: int,
        click_log: ClickLog | None = None,
    ) -> None:
        self.engine, self.images, self.requests = engine, images, requests
        self.model_version = f"icmformer {engine.weights.name} {engine.weights.sha256[:8]} {engine.profile.name}"
        self.metrics = Metrics(engine, images.decoded)
        label_studio = LabelStudioCodec(images, polygon_points, self.model_version)
        self._core: ServingCore[InteractiveRequest, JSON] = ServingCore(
            engine, label_studio, self.model_version, requests, click_log, self.metrics
        )
        self._prefetches: queue.Queue[tuple[str, str]] = queue.Queue(_PREFETCHES)  # address, task
        threading.Thread(target=self._prefetch_all, name="prefetch", daemon=True).start()

    @staticmethod
    def from_settings(settings: BackendSettings) -> Backend:
        """Loads the weights and warms up.

        Raises:
            IcmformerError: Weights, device or settings that cannot be used.
        """
        click_log = ClickLog(settings.click_log)
        engine = load_engine(settings)
        decoded: ByteLRU[DecodedImage] = ByteLRU(settings.image_cache_mb << 20)
        files = FileCache(settings.cache_dir / "label-studio", settings.file_cache_bytes)
        studio = LabelStudio.from_settings(settings)
        images = Images(studio, files, decoded, settings.max_pixels, settings.max_image_bytes)
        requests = RequestQueue(settings.places, settings.queue, settings.queue_seconds)
        return Backend(engine, images, requests, settings.polygon_points, click_log)

    def predict(self, body: Any) -> Outcome[JSON]:
        """Answers a request of Label Studio's `/predict`; never raises."""
        outcome = self._core.respond(body, current_request.get())
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
        if save is not None and (save.regions or not save.first):  # one that is left without our masks counts as such
            regions = [{"id": r.id, "clicks": r.clicks, "edited": r.edited} for r in save.regions]
            self._core.click_log.write("accepted", "label studio", annotation=save.annotation, regions=regions)
        for region in save.regions if save and save.first else ():
            self.metrics.accepted(region.clicks)
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
                        self.engine.prefetch(image)
            except IcmformerError as error:
                log.warning("not prefetched: %s", error)
            except Exception:
                log.exception("prefetching failed")
            finally:
                self._prefetches.task_done()
