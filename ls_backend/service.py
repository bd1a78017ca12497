"""What a request comes to, whatever brought it: the routes here, or the official runtime."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icmformer import Caches, Engine, IcmformerError
from icmformer.errors import PromptError
from icmformer.inference.cache import ByteLRU, Cache
from icmformer.serving.click_log import ClickLog
from icmformer.serving.errors import RequestError
from icmformer.serving.logs import current_request
from icmformer.serving.queue import Gate, StaleError
from icmformer.settings import Settings
from icmformer.timings import Timings
from ls_backend import codec, saved_annotations
from ls_backend.fetch import LabelStudio
from ls_backend.filecache import FileCache
from ls_backend.images import DecodedImage, Images
from ls_backend.labels import read_config
from ls_backend.saved_annotations import Save
from ls_backend.settings import BackendSettings
from ls_backend.task_image import image_url

log = logging.getLogger("icmformer.label_studio")
_PREFETCHES = 8


@dataclass(frozen=True)
class Outcome:
    """What a prediction came to.

    Attributes:
        reply: The JSON to send.
        kind: `mask`, `empty`, `nothing clicked` or `stale`, for metrics.
        timings: Milliseconds by stage, those of the engine as `segment.STAGE`.
        clicks: Clicks and boxes of the request.
    """

    reply: dict[str, Any]
    kind: str
    timings: Mapping[str, float]
    clicks: int = 0


class Backend:
    """The engine behind Label Studio's requests. Safe to call from several threads.

    Args:
        engine: Ready to segment.
        images: Loads a task's images.
        gate: Lets requests through to the engine.
        polygon_points: Most points of a polygon.
        click_log: Where clicks and accepted masks are written down; nowhere by default.
    """

    def __init__(
        self, engine: Engine, images: Images, gate: Gate, polygon_points: int, click_log: ClickLog | None = None
    ) -> None:
        self.engine, self.images, self.gate = engine, images, gate
        self._polygon_points = polygon_points
        self._click_log = click_log or ClickLog(None)
        self.model_version = f"icmformer {engine.weights.name} {engine.weights.sha256[:8]} {engine.profile.name}"
        self._prefetches: queue.Queue[tuple[str, str]] = queue.Queue(_PREFETCHES)  # address, task
        threading.Thread(target=self._prefetch_all, name="prefetch", daemon=True).start()

    @staticmethod
    def from_settings(settings: Settings, own: BackendSettings) -> Backend:
        """Loads the weights and warms up.

        Raises:
            IcmformerError: Weights, device or settings that cannot be used.
        """
        click_log = ClickLog(settings.click_log)
        engine = Engine.from_weights(
            settings.weights, settings.device, settings.profile, Caches.bounded(settings), settings.runtime, settings
        )
        engine.warm_up()
        decoded: ByteLRU[DecodedImage] = ByteLRU(settings.image_cache_mb << 20)
        files = FileCache(settings.cache_dir / "label-studio", own.file_cache_bytes)
        images = Images(LabelStudio.from_settings(own), files, decoded, settings.max_pixels, own.max_image_bytes)
        gate = Gate(places(settings, own), own.queue, own.queue_seconds)
        return Backend(engine, images, gate, own.polygon_points, click_log)

    @property
    def caches(self) -> dict[str, Cache[Any]]:
        """By the name that metrics have for them."""
        kept = self.engine.caches
        return {"features": kept.features, "states": kept.states, "images": self.images.decoded}

    def predict(self, body: Any) -> Outcome:
        """Answers a request of Label Studio's `/predict`.

        Raises:
            RequestError: And its kin: what is wrong with it.
        """
        started = time.perf_counter()
        request = codec.parse(body)
        parsed = time.perf_counter()
        if request is None:
            self._prefetch(body)
            return Outcome({"results": []}, "nothing clicked", {})
        # A new click of an object resends the ones before: who shares the first one is clicking on the same object.
        try:
            with self.gate.arrival((request.task, request.marks[0].id)) as turn:
                image = self.images.load(request.url, request.task, turn)
                fetched = time.perf_counter()
                height, width = image.pixels.shape[:2]
                clicks, box = request.prompt(height, width)
                with self.gate.enter(turn):
                    waited = time.perf_counter()
                    result = self.engine.segment(image, clicks, box)
        except StaleError:
            return Outcome({"results": []}, "stale", {})
        except PromptError as error:
            raise RequestError(str(error)) from error
        segmented = time.perf_counter()
        regions = codec.answer(request, result.mask, result.score, self._polygon_points)
        reply = {"results": [{"result": regions, "score": result.score, "model_version": self.model_version}]}
        stages = {
            "parse": 1000 * (parsed - started),
            "fetch": 1000 * (fetched - parsed),
            "wait": 1000 * (waited - fetched),
            "segment": 1000 * (segmented - waited),
            "encode": 1000 * (time.perf_counter() - segmented),
        }
        timings = Timings(stages)
        timings.within("segment", result.timings)
        log.info(
            "task %s: %d clicks%s, %s, %s",
            request.task,
            len(clicks),
            " and a box" if box else "",
            f"score {result.score:.2f}" if regions else "empty mask",
            ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in stages.items()),
            extra={
                "facts": {"task": request.task, "clicks": len(clicks), "score": result.score} | _milliseconds(stages)
            },
        )
        kind = "mask" if regions else "empty"
        self._click_log.write(
            "click",
            "label studio",
            request=current_request.get(),
            result=kind,
            region=request.region_id,
            positive=sum(click.positive for click in clicks),
            negative=sum(not click.positive for click in clicks),
            box=box is not None,
            area=round(float(result.mask.mean()), 5),
            score=round(result.score, 3),
            milliseconds=round(sum(stages.values()), 1),
            model=self.model_version,
        )
        return Outcome(reply, kind, timings, len(request.marks))

    def saved(self, body: Any) -> Save | None:
        """Reads what Label Studio's webhook says of a saved annotation, and writes it to the click log.

        Returns:
            The save; None where no annotation was saved.

        Raises:
            RequestError: A body that is not what Label Studio sends.
        """
        save = saved_annotations.parse(body)
        if save is not None and (save.regions or not save.first):  # one that is left without our masks counts as such
            regions = [{"id": r.id, "clicks": r.clicks, "edited": r.edited} for r in save.regions]
            self._click_log.write("accepted", "label studio", annotation=save.annotation, regions=regions)
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
                if not self.gate.waiting:
                    with self.gate.enter():
                        self.engine.prefetch(image)
            except IcmformerError as error:
                log.warning("not prefetched: %s", error)
            except Exception:
                log.exception("prefetching failed")
            finally:
                self._prefetches.task_done()


def places(settings: Settings, own: BackendSettings) -> int:
    """Requests that the network works on at once; those that are to share a pass must get as far as it."""
    return max(own.concurrency, settings.batch)


def _milliseconds(stages: Mapping[str, float]) -> dict[str, float]:
    """Stages as the log names them."""
    return {f"{stage}_ms": round(spent, 1) for stage, spent in stages.items()}
