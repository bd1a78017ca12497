"""The routes that Label Studio calls."""

from __future__ import annotations

import hmac
import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from icmformer.inference.cache import Cache
from icmformer.telemetry import server_timing
from ls_backend.errors import BusyError, RequestError
from ls_backend.service import Backend
from ls_backend.settings import BackendSettings

log = logging.getLogger("icmformer.label_studio")
_OPEN = frozenset({"/health", "/webhook"})  # Label Studio comes to these without credentials
_RETRY_SECONDS = 2


class _Metrics:
    def __init__(self, backend: Backend) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("icmformer_requests", "Requests by route and status", ["route", "status"], **made)
        self.predictions = Counter("icmformer_predictions", "Predictions by what they came to", ["kind"], **made)
        self.stages = Histogram(
            "icmformer_stage_seconds",
            "Time of a prediction by stage",
            ["stage"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            **made,
        )
        waiting = Gauge("icmformer_waiting_requests", "Requests that wait for the network", **made)
        waiting.set_function(lambda: backend.gate.waiting)
        self.registry.register(_Caches(backend))
        Gauge("icmformer_model", "The weights in use", ["version"], **made).labels(backend.model_version).set(1)


class _Caches(Collector):
    """What the caches hold and how they do, read when asked."""

    def __init__(self, backend: Backend) -> None:
        caches = backend.engine.caches
        self._caches: dict[str, Cache[Any]] = {
            "features": caches.features,
            "states": caches.states,
            "images": backend.images.decoded,
        }

    def collect(self) -> Iterator[Metric]:
        """The families, each with the cache as its label."""
        size = GaugeMetricFamily("icmformer_cache_bytes", "Bytes kept", labels=["cache"])
        counts = {
            name: CounterMetricFamily(f"icmformer_cache_{name}", f"Cache {name}", labels=["cache"])
            for name in ("hits", "misses", "evictions")
        }
        for label, cache in self._caches.items():
            stats = cache.stats()
            size.add_metric([label], stats.nbytes)
            for name, family in counts.items():
                family.add_metric([label], getattr(stats, name))
        yield from (size, *counts.values())


def create_app(backend: Backend, settings: BackendSettings) -> Flask:
    """The WSGI application around a backend that is ready."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    metrics = _Metrics(backend)

    @app.before_request
    def authorise() -> Response | None:
        g.request_id = uuid.uuid4().hex[:12]
        if not settings.user or request.path in _OPEN:
            return None
        given = request.authorization
        right = (
            given is not None
            and given.type == "basic"
            and hmac.compare_digest((given.username or "").encode(), settings.user.encode())
            and hmac.compare_digest((given.password or "").encode(), settings.password.encode())
        )
        if right:
            return None
        log.warning(
            "%s %r without the right credentials: set them on the model's page in Label Studio",
            request.method,
            request.path,
        )
        reply = _error(401, "not authorised", "this backend asks for a user name and a password (basic auth)")
        reply.headers["WWW-Authenticate"] = 'Basic realm="icmformer"'
        return reply

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "other"
        metrics.requests.labels(route, str(response.status_code)).inc()
        response.headers["X-Request-Id"] = g.get("request_id", "")
        if g.get("timings"):
            response.headers["Server-Timing"] = server_timing(g.timings)
        return response

    @app.get("/")
    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "UP", "model_class": "icmformer", "model_version": backend.model_version}

    @app.post("/setup")
    def setup() -> dict[str, Any]:
        return {"model_version": backend.model_version}

    @app.route("/versions", methods=["GET", "POST"])
    def versions() -> dict[str, Any]:
        return {"versions": [backend.model_version], "message": None}

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        outcome = backend.predict(_json_body())
        metrics.predictions.labels(outcome.kind).inc()
        for stage, milliseconds in outcome.timings.items():
            metrics.stages.labels(stage).observe(milliseconds / 1000)
        g.timings = outcome.timings
        return outcome.reply

    @app.post("/webhook")
    def webhook() -> tuple[dict[str, Any], int]:
        return {"status": "ignored"}, 200

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), mimetype="text/plain; version=0.0.4")

    @app.errorhandler(RequestError)
    def refused(error: RequestError) -> Response:
        log.warning("[%s] %s: %s", g.get("request_id"), error.kind, error)
        reply = _error(error.status, error.kind, str(error))
        if isinstance(error, BusyError):
            reply.headers["Retry-After"] = str(_RETRY_SECONDS)
        return reply

    @app.errorhandler(HTTPException)
    def not_served(error: HTTPException) -> Response:
        text = error.description or error.name
        if isinstance(error, RequestEntityTooLarge):
            text = f"the body has over {settings.max_body_bytes >> 20} MB; raise ICMFORMER_MAX_BODY_MB if need be"
        log.warning("[%s] %s %r: %s", g.get("request_id"), request.method, request.path, text)
        return _error(error.code or 500, error.name.lower(), text)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        log.exception("[%s] %r failed", g.get("request_id"), request.path, exc_info=error)
        return _error(500, "internal error", f"see the backend's log for request {g.get('request_id')}")

    return app


def _json_body() -> Any:
    try:
        return json.loads(request.get_data(cache=False))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error


def _error(status: int, kind: str, text: str) -> Response:
    return Response(json.dumps({"error": text, "kind": kind}) + "\n", status, mimetype="application/json")
