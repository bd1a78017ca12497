"""The metrics of both servers, for Prometheus; needs the package prometheus-client, which their extras bring.

With several worker processes set PROMETHEUS_MULTIPROC_DIR to a folder of theirs before Python starts: any worker
then reports the figures of all. That variable is prometheus-client's own, and read by it.

| metric | labels | what it counts |
|---|---|---|
| icmformer_requests_total | route, status | requests answered |
| icmformer_request_seconds | route | their time, from the first byte read to the reply made |
| icmformer_errors_total | kind | requests refused or failed, by the word that the reply has for it |
| icmformer_predictions_total | kind | predictions by outcome |
| icmformer_stage_seconds | stage | time of a prediction by the server's stages |
| icmformer_network_seconds | stage | time within its stage `segment`, by the engine's |
| icmformer_request_clicks | | clicks and boxes of a request |
| icmformer_object_clicks | weights | clicks and boxes of a mask that was there when its annotation was first saved |
| icmformer_waiting_requests | | requests that wait for the network |
| icmformer_cache_bytes | cache | bytes kept |
| icmformer_cache_hits_total, _misses_total, _evictions_total | cache | hits, misses and evictions of the caches |
| icmformer_model | weights, digest, profile, runtime, device | 1 for the model in use, 0 for those before it |
| icmformer_switches_total | outcome | changes of the weights' version: switched, or refused and the old one kept |
| icmformer_trainings_total | outcome | trainings that Start Training began, by what they came to |
| icmformer_training_running | | 1 while one runs, at one of the backends that share the folder |
| icmformer_training_progress | | about which part of it is done, 0 to 1 |
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Concatenate, ParamSpec

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from icmformer.errors import ConfigError
from icmformer.inference.cache import Cache
from icmformer.inference.engine import Engine
from icmformer.serving.errors import ERROR_KINDS

log = logging.getLogger("icmformer.serving.metrics")
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
P = ParamSpec("P")

_SECONDS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 3, 10, 30)
_CLICKS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 50)
_OTHER = "other"
TRAINING_OUTCOMES = ("promoted", "not promoted", "failed", "stopped", "interrupted")
_OF_A_PROCESS = re.compile(r"gauge_live\w*_(\d+)\.db")


def _harmless(method: Callable[Concatenate[Metrics, P], None]) -> Callable[Concatenate[Metrics, P], None]:
    """Counting must never cost a reply: what goes wrong is told once and let be."""

    @functools.wraps(method)
    def counted(self: Metrics, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if not self._told_fault:
                self._told_fault = True
                log.warning("some metrics are not counted: %r", error)

    return counted  # type: ignore[return-value]


class Metrics:
    """The metrics of a server. Counting never raises.

    Args:
        engine: Whose model and caches are told.
        images: The server's cache of decoded images.

    Raises:
        ConfigError: The folder of PROMETHEUS_MULTIPROC_DIR cannot be used.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, engine: Engine, images: Cache[Any]) -> None:
        self._told_fault = False
        self._folder = os.environ.get(_FOLDER)
        if self._folder == "":
            raise ConfigError(f"{_FOLDER} is empty: name a folder, or unset it")
        try:
            if self._folder:
                _forget_the_dead(Path(self._folder))
            self._make(engine)
        except OSError as error:
            raise ConfigError(f"{_FOLDER}: {self._folder} cannot be used: {error.strerror or error}") from error
        kept = engine.caches
        self._caches: dict[str, Cache[Any]] = {"features": kept.features, "states": kept.states, "images": images}
        self._lock = Lock()
        self._told: dict[tuple[str, str], int] = {}
        self.update()

    def _make(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self._registry}
        live: dict[str, Any] = {"multiprocess_mode": "livesum", **made}
        timed: dict[str, Any] = {"buckets": _SECONDS, **made}
        clicked: dict[str, Any] = {"buckets": _CLICKS, **made}
        self._requests = Counter("icmformer_requests", "Requests answered", ["route", "status"], **made)
        self._seconds = Histogram("icmformer_request_seconds", "Time of a request", ["route"], **timed)
        self._errors = Counter("icmformer_errors", "Requests refused or failed", ["kind"], **made)
        for kind in ERROR_KINDS:  # so that each is 0 before the first error
            self._errors.labels(kind)
        self._predictions = Counter("icmformer_predictions", "Predictions by outcome", ["kind"], **made)
        self._stages = Histogram("icmformer_stage_seconds", "Time of a prediction by stage", ["stage"], **timed)
        self._network = Histogram("icmformer_network_seconds", "Time in the engine by stage", ["stage"], **timed)
        self._clicks = Histogram("icmformer_request_clicks", "Clicks and boxes of a request", **clicked)
        self._kept = Histogram(
            "icmformer_object_clicks", "Clicks and boxes that an accepted mask took", ["weights"], **clicked
        )
        self._waiting = Gauge("icmformer_waiting_requests", "Requests that wait for the network", **live)
        self._bytes = Gauge("icmformer_cache_bytes", "Bytes kept", ["cache"], **live)
        self._counts = {
            name: Counter(f"icmformer_cache_{name}", f"Cache {name}", ["cache"], **made)
            for name in ("hits", "misses", "evictions")
        }
        facts = ["weights", "digest", "profile", "runtime", "device"]
        self._model = Gauge("icmformer_model", "The model in use", facts, multiprocess_mode="livemax", **made)
        self._switches = Counter(
            "icmformer_switches", "Changes of the weights' version, by outcome", ["outcome"], **made
        )
        for outcome in ("switched", "refused"):
            self._switches.labels(outcome)
        self._trainings = Counter("icmformer_trainings", "Trainings, by outcome", ["outcome"], **made)
        for outcome in TRAINING_OUTCOMES:
            self._trainings.labels(outcome)
        self._training = Gauge("icmformer_training_running", "Trainings that run", **live)
        self._progress = Gauge("icmformer_training_progress", "About which part of the training is done", **live)
        self._serves: tuple[str, ...] | None = None
        self._tell_model(engine)

    def _tell_model(self, engine: Engine) -> None:
        weights = engine.weights
        facts = (weights.name, weights.sha256[:8], engine.profile.name, engine.runtime, str(engine.device))
        if self._serves is not None and self._serves != facts:
            self._model.labels(*self._serves).set(0)  # shared files of several processes know no removal
        self._model.labels(*facts).set(1)
        self._kept.labels(weights.name)  # as with errors: nought before the first
        self._serves = facts

    @_harmless
    def switched(self, engine: Engine) -> None:
        """Tells which model is in use from now on, after a change."""
        self._switches.labels("switched").inc()
        self._tell_model(engine)

    @_harmless
    def switch_refused(self) -> None:
        """Counts a version of the weights that cannot be used."""
        self._switches.labels("refused").inc()

    @_harmless
    def training(self, running: bool, progress: float) -> None:
        """Tells whether a training runs, and about which part of it is done."""
        self._training.set(running)
        self._progress.set(progress)

    @_harmless
    def trained(self, outcome: str) -> None:
        """Counts a training that has ended."""
        self._trainings.labels(outcome).inc()

    @_harmless
    def answered(self, route: str, status: int, seconds: float | None) -> None:
        """Counts a request, whatever it came to; `seconds` None where its start is not known."""
        self._requests.labels(route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(route).observe(seconds)

    @_harmless
    def refused(self, kind: str) -> None:
        """Counts a request that was refused or failed."""
        self._errors.labels(kind).inc()

    @_harmless
    def prediction(self, kind: str, timings: Mapping[str, float], clicks: int) -> None:
        """Counts a prediction.

        Args:
            kind: What it came to.
            timings: Milliseconds by stage, the engine's as `segment.STAGE`.
            clicks: Clicks and boxes; 0 is not counted.
        """
        self._predictions.labels(kind).inc()
        for stage, milliseconds in timings.items():
            name, _, part = stage.partition(".")
            histogram = self._network.labels(part) if part else self._stages.labels(name)
            histogram.observe(milliseconds / 1000)
        if clicks:
            self._clicks.observe(clicks)
        self.update()

    @_harmless
    def accepted(self, clicks: int, weights: str | None) -> None:
        """Counts a mask that an annotator kept.

        Args:
            clicks: Clicks and boxes that it took.
            weights: Those that made it; None where they are not known.
        """
        self._kept.labels(weights or _OTHER).observe(clicks)

    @_harmless
    def waiting(self, count: int) -> None:
        """Tells how many requests wait for the network."""
        self._waiting.set(count)

    @_harmless
    def update(self) -> None:
        """Brings the metrics of the caches up to date."""
        with self._lock:
            for cache, held in self._caches.items():
                stats = held.stats()
                self._bytes.labels(cache).set(stats.nbytes)
                for name, counter in self._counts.items():
                    now = getattr(stats, name)
                    counter.labels(cache).inc(now - self._told.get((cache, name), 0))
                    self._told[cache, name] = now

    def text(self) -> bytes:
        """All of it in Prometheus's text form, see `content_type`."""
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
        if found and not _lives(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _lives(pid: int) -> bool:
    """Whether there is such a process; /proc has threads by their number, too."""
    try:
        return f"Tgid:\t{pid}\n" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
