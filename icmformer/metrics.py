"""What both servers tell Prometheus; needs the package prometheus-client, which their extras bring.

With several worker processes set PROMETHEUS_MULTIPROC_DIR to a folder of theirs before Python starts: whichever worker
is asked then tells of all. That variable is prometheus-client's own, and read by it.

| metric | labels | what it counts |
|---|---|---|
| icmformer_requests_total | route, status | requests answered |
| icmformer_request_seconds | route | their time, from the first byte read to the reply made |
| icmformer_errors_total | kind | requests refused or failed, by the word that the reply has for it |
| icmformer_predictions_total | kind | predictions by what they came to |
| icmformer_stage_seconds | stage | time of a prediction by the server's stages |
| icmformer_network_seconds | stage | time within its stage `segment`, by the engine's |
| icmformer_request_clicks | | clicks and boxes of a request |
| icmformer_object_clicks | | clicks and boxes that an accepted mask took; where the tool tells |
| icmformer_waiting_requests | | requests that wait for the network |
| icmformer_cache_bytes | cache | bytes kept |
| icmformer_cache_hits_total, _misses_total, _evictions_total | cache | how the caches do |
| icmformer_model | weights, digest, profile, runtime, device | 1; the model in use |
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from icmformer.inference.cache import Cache
from icmformer.inference.engine import Engine

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 3, 10, 30)
_CLICKS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 50)
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_OF_A_PROCESS = re.compile(r"gauge_live\w*_(\d+)\.db")


class Metrics:
    """The metrics of a server.

    Args:
        engine: Whose model is told.
        caches: By the name that their metrics have.
        waiting: How many requests wait for the network.
    """

    def __init__(
        self, engine: Engine, caches: Mapping[str, Cache[Any]], waiting: Callable[[], int] = lambda: 0
    ) -> None:
        self._folder = os.environ.get(_FOLDER)
        if self._folder:
            _forget_the_dead(Path(self._folder))
        self._registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self._registry}
        live: dict[str, Any] = {"multiprocess_mode": "livesum", **made}
        self.requests = Counter("icmformer_requests", "Requests answered", ["route", "status"], **made)
        self.request_seconds = Histogram(
            "icmformer_request_seconds", "Time of a request", ["route"], buckets=_SECONDS, **made
        )
        self.errors = Counter("icmformer_errors", "Requests refused or failed", ["kind"], **made)
        self.predictions = Counter("icmformer_predictions", "Predictions by what they came to", ["kind"], **made)
        self._stages = Histogram(
            "icmformer_stage_seconds", "Time of a prediction by stage", ["stage"], buckets=_SECONDS, **made
        )
        self._network = Histogram(
            "icmformer_network_seconds", "Time in the engine by stage", ["stage"], buckets=_SECONDS, **made
        )
        self.request_clicks = Histogram(
            "icmformer_request_clicks", "Clicks and boxes of a request", buckets=_CLICKS, **made
        )
        self.object_clicks = Histogram(
            "icmformer_object_clicks", "Clicks and boxes that an accepted mask took", buckets=_CLICKS, **made
        )
        self._waiting = waiting
        self._waits = Gauge("icmformer_waiting_requests", "Requests that wait for the network", **live)
        self._caches = dict(caches)
        self._lock = Lock()
        self._bytes = Gauge("icmformer_cache_bytes", "Bytes kept", ["cache"], **live)
        self._counts = {
            name: Counter(f"icmformer_cache_{name}", f"Cache {name}", ["cache"], **made)
            for name in ("hits", "misses", "evictions")
        }
        self._told: dict[tuple[str, str], int] = {}
        facts = ["weights", "digest", "profile", "runtime", "device"]
        model = Gauge("icmformer_model", "The model in use", facts, multiprocess_mode="livemax", **made)
        weights = engine.weights
        model.labels(weights.name, weights.sha256[:8], engine.profile.name, engine.runtime, str(engine.device)).set(1)
        self.update()

    def prediction(self, kind: str, timings: Mapping[str, float]) -> None:
        """Counts a prediction: what it came to, and its milliseconds by stage, the engine's as `segment.STAGE`."""
        self.predictions.labels(kind).inc()
        for stage, milliseconds in timings.items():
            name, _, part = stage.partition(".")
            histogram = self._network.labels(part) if part else self._stages.labels(name)
            histogram.observe(milliseconds / 1000)
        self.update()

    def update(self) -> None:
        """Brings up to date what is not counted as it happens."""
        with self._lock:
            self._waits.set(self._waiting())
            for cache, held in self._caches.items():
                stats = held.stats()
                self._bytes.labels(cache).set(stats.nbytes)
                for name, counter in self._counts.items():
                    now = getattr(stats, name)
                    counter.labels(cache).inc(now - self._told.get((cache, name), 0))
                    self._told[cache, name] = now

    def text(self) -> bytes:
        """All of it in Prometheus's text form, see `CONTENT_TYPE`."""
        self.update()
        if not self._folder:
            return generate_latest(self._registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody, self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(everybody)


def _forget_the_dead(folder: Path) -> None:
    """Makes the folder, and deletes what processes held that are no more; what they counted stays counted."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        found = _OF_A_PROCESS.fullmatch(path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            with contextlib.suppress(OSError):
                path.unlink()
