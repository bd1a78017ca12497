"""The routes that Label Studio calls."""

from __future__ import annotations

import hmac
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from flask import Flask, Response, g, request, send_file
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge, UnsupportedMediaType

from icmformer.serving.errors import NOT_AUTHORISED, BusyError, RequestError, status_of
from icmformer.serving.logs import current_request
from icmformer.timings import server_timing

from .backend import Backend
from .settings import BackendSettings
from .training_jobs import REPORTS, START
from .training_page import training_page

log = logging.getLogger("icmformer.label_studio")
PAGE = "/training"
"""Where a browser shows how trainings go."""
_OPEN = frozenset({"/health", "/ready", "/webhook"})  # callers of these come without credentials
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_RETRY_SECONDS = 2
_PIECE = 1 << 16  # of a body, read at a time
_MOST_CONTAINERS = 500_000  # empty ones take 80 bytes of memory for three of a body
_WEBHOOK_BYTES = 16 << 20  # a saved annotation; who sends it has shown no credentials
_WEBHOOKS_BYTES = 32 << 20  # of all that are worked on at once


def create_app(backend: Backend, settings: BackendSettings) -> Flask:
    """The WSGI application around a backend that is ready."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    metrics = backend.metrics
    webhooks, one_at_a_time = _Budget(_WEBHOOKS_BYTES), threading.Lock()
    strangers: list[str] = []  # told of once

    def authorised() -> bool:
        given = request.authorization
        return not settings.user or (
            given is not None
            and given.type == "basic"
            and hmac.compare_digest((given.username or "").encode(), settings.user.encode())
            and hmac.compare_digest((given.password or "").encode(), settings.password.encode())
        )

    def our_fault() -> str:
        return f"see the backend's log for request {g.get('request_id')}"

    @app.before_request
    def authorise() -> Response | None:
        g.started = time.perf_counter()
        given_id = request.headers.get("X-Request-Id", "")
        g.request_id = given_id if _REQUEST_ID.fullmatch(given_id) else uuid.uuid4().hex[:12]
        current_request.set(g.request_id)
        if request.path == "/webhook":
            request.max_content_length = min(settings.max_body_bytes, _WEBHOOK_BYTES)
        # A webhook comes without credentials unless it is told to bring some: then they should be right.
        unasked = request.path in _OPEN and (request.path != "/webhook" or "Authorization" not in request.headers)
        if unasked or authorised():
            return None
        if request.path != PAGE or "Authorization" in request.headers:  # a browser asks its user only then
            log.warning(
                "%s %r without the right credentials: set them in Label Studio, for the model or as a webhook's header",
                request.method,
                request.path,
            )
        metrics.refused(NOT_AUTHORISED)
        reply = _error(401, NOT_AUTHORISED, "this backend asks for a user name and a password (basic auth)")
        reply.headers["WWW-Authenticate"] = 'Basic realm="icmformer"'
        return reply

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "other"
        metrics.answered(route, response.status_code, time.perf_counter() - g.started if "started" in g else None)
        response.headers["X-Request-Id"] = g.get("request_id", "")
        if g.get("timings"):
            response.headers["Server-Timing"] = server_timing(g.timings)
        return response

    @app.teardown_request
    def leave(_: BaseException | None) -> None:
        current_request.set("")  # the thread's next line may be about no request

    @app.get("/")
    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "UP", "model_class": "icmformer", "model_version": backend.model_version}

    @app.get("/ready")
    def ready() -> tuple[dict[str, Any], int]:
        """For routers: 503 sends clicks to another replica while the queue here is full."""
        if backend.requests.full:
            return {"status": "BUSY", "waiting": backend.requests.queued}, 503
        return {"status": "READY", "waiting": backend.requests.queued}, 200

    @app.post("/setup")
    def setup() -> dict[str, Any]:
        return {"model_version": backend.model_version}

    @app.route("/versions", methods=["GET", "POST"])
    def versions() -> dict[str, Any]:
        return {"versions": [backend.model_version], "message": None}

    @app.post("/predict")
    def predict() -> dict[str, Any] | Response:
        outcome = backend.predict(_json_body())
        if outcome.reply is None:
            return _error(outcome.status, outcome.kind, outcome.error if outcome.fault is None else our_fault())
        g.timings = outcome.timings
        return outcome.reply

    @app.post("/webhook")
    def webhook() -> tuple[dict[str, Any], int]:
        """Label Studio reports saved annotations here: the masks in them tell how many clicks each took.

        *Start Training* comes here, too.

        A webhook brings no credentials unless it is set up to. Where credentials are required, a webhook without them
        is ignored, not refused.
        """
        if not authorised():
            if not strangers:
                strangers.append(request.path)
                log.warning("a webhook came without credentials and is ignored: give it an Authorization header")
            return {"status": "ignored"}, 200
        _refuse_forms()
        with webhooks.read(request.stream) as content, one_at_a_time:
            body = _parsed(content)
            pressed = isinstance(body, dict) and body.get("action") == START
            save = None if pressed else backend.saved(body)
        if pressed:
            return backend.train(body), 200
        return {"status": "noted" if save and save.regions else "ignored"}, 200

    @app.post("/train")
    def train() -> dict[str, Any]:
        """*Start Training* of a Label Studio that sends no webhook for it."""
        _refuse_forms()
        return backend.train(_json_body())

    @app.post("/job_status")
    def job_status() -> tuple[dict[str, Any], int]:
        found = backend.trainings.job_status(_json_body()) if backend.trainings else None
        return (found, 200) if found else ({"error": "there is no such training any more", "kind": "gone"}, 410)

    @app.get(PAGE)
    def training() -> dict[str, Any] | Response:
        """How the last training stands: for programs, and as a page for people."""
        status = backend.training()
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            return Response(training_page(status), mimetype="text/html")
        return status

    @app.get(f"/{REPORTS}<path:name>")
    def report(name: str) -> Response:
        """The report of a training, with its pictures in it."""
        run = backend.trainings.runs.named(name) if backend.trainings else None
        if run is None or not run.report.is_file():
            raise NotFound("there is no report of such a training")
        return send_file(run.report, mimetype="text/html")

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics.text(), content_type=metrics.content_type)

    @app.errorhandler(RequestError)
    def refused(error: RequestError) -> Response:
        status, kind = status_of(error)
        log.warning("%s: %s", kind, error, extra={"facts": {"kind": kind, "status": status}})
        metrics.refused(kind)
        return _error(status, kind, str(error))

    @app.errorhandler(HTTPException)
    def not_served(error: HTTPException) -> Response:
        text = error.description or error.name
        if isinstance(error, RequestEntityTooLarge):
            most = request.max_content_length or settings.max_body_bytes
            text = f"the body has over {most >> 20} MB"
            if most == settings.max_body_bytes:
                text += "; raise ICMFORMER_MAX_BODY_MB if need be"
        log.warning("%s %r: %s", request.method, request.path, text)
        metrics.refused(error.name.lower())
        return _error(error.code or 500, error.name.lower(), text)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        log.exception("%r failed", request.path, exc_info=error)
        status, kind = status_of(error)
        metrics.refused(kind)
        return _error(status, kind, our_fault())

    return app


class _Budget:
    """Bytes of bodies that may be held at once, as far as they have come.

    Args:
        most: Of all.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._lock = threading.Lock()

    @contextmanager
    def read(self, stream: IO[bytes]) -> Iterator[bytes]:
        """Reads a body, and counts it for as long as it is worked on.

        Raises:
            BusyError: There is no room for more of it.
        """
        content = bytearray()
        try:
            while piece := _piece(stream):
                with self._lock:
                    if len(piece) > self._left:
                        raise BusyError("annotations are saved faster than they can be processed")
                    self._left -= len(piece)
                content += piece
            yield bytes(content)
        finally:
            with self._lock:
                self._left += len(content)


def _piece(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(_PIECE)
    except HTTPException:
        raise
    except Exception as error:  # whatever the server's reader raises at what is no HTTP
        raise RequestError("the body ended early, or is not valid HTTP") from error


def _refuse_forms() -> None:
    """What changes something here is not to come from another site's page, with credentials that a browser remembers.

    Such a page can send forms and plain text, but JSON only where it is allowed to, which nobody is here.

    Raises:
        UnsupportedMediaType: The body is not declared to be JSON.
    """
    if not request.is_json:
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")


def _json_body() -> Any:
    return _parsed(b"".join(iter(lambda: _piece(request.stream), b"")))


def _parsed(content: bytes) -> Any:
    if content.count(b"[") + content.count(b"{") > _MOST_CONTAINERS:
        raise RequestError(f"the body holds over {_MOST_CONTAINERS:,} lists and objects")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error


def _error(status: int, kind: str, text: str) -> Response:
    reply = Response(json.dumps({"error": text, "kind": kind}) + "\n", status, mimetype="application/json")
    if status == 503:
        reply.headers["Retry-After"] = str(_RETRY_SECONDS)
    return reply
