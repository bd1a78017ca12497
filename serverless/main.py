"""What Nuclio calls: `init_context` once in each worker, `handler` for each request of CVAT, or of Prometheus.

`handler` never raises, whatever comes in: Nuclio would send the traceback to the caller. `init_context` does not raise
either: Nuclio would start the worker again for ever. A worker without a model answers 503 and says why in its log.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
import warnings

from nuclio_sdk import Context, Event, Response

from icmformer import memory
from icmformer.errors import IcmformerError
from icmformer.serving.click_log import ClickLog
from icmformer.serving.core import Outcome, refused
from icmformer.serving.errors import NotReadyError
from icmformer.serving.metrics import Metrics
from icmformer.serving.version_watch import starting_engine, watch_versions
from icmformer.timings import server_timing

from .interactor import CVATCodec, Interactor
from .settings import FunctionSettings

_RETRY_SECONDS = "30"  # a worker that starts again has its model by then
MODEL_HEADER = "X-Icmformer-Model"
"""Of replies: weights, profile and device, for whoever measures a deployed function."""


def init_context(context: Context) -> None:
    """Loads the model, warms it up and puts what answers requests into `context.user_data.interactor`."""
    context.user_data.interactor = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd images, with paths of this machine
    memory.for_servers()
    start = time.monotonic()
    try:
        settings = FunctionSettings.from_environment()
        interactor = _interactor(context, settings)
        watch_versions(interactor, settings)
    except IcmformerError as error:
        context.logger.error(f"no model, every request will be answered 503: {error}")
    except Exception as error:
        trace = traceback.format_exc(limit=-20)
        context.logger.error_with(f"no model, every request will be answered 503: {error!r}", trace=trace)
    else:
        context.user_data.interactor = interactor
        seconds = round(time.monotonic() - start, 1)
        context.logger.info_with(f"ready: {interactor.model}", seconds=seconds, reply=settings.reply)


def _interactor(context: Context, settings: FunctionSettings) -> Interactor:
    engine, cvat = starting_engine(settings), CVATCodec(settings)
    try:
        return Interactor(engine, cvat, click_log=ClickLog(settings.click_log), metrics=Metrics(engine, cvat.images))
    except Exception as error:  # masks are worth more than figures of them
        context.logger.warn(f"there will be no metrics and no click log: {error}")
        return Interactor(engine, cvat)


def handler(context: Context, event: Event) -> Response:
    """Answers one request.

    Returns:
        200 with CVAT's JSON, or with metrics for a GET of /metrics; 4xx or 503 with one line of JSON, `error` and
        `kind`, that says what is wrong; 500 for a fault of our own, whose traceback goes to the log alone.
    """
    start = time.perf_counter()
    request_id = str(getattr(event, "id", "") or "")
    interactor: Interactor | None = getattr(context.user_data, "interactor", None)
    metrics = interactor and interactor.metrics
    try:
        if metrics and event.method == "GET" and str(event.path).partition("?")[0] == "/metrics":
            return Response(body=metrics.text().decode(), content_type=metrics.content_type, status_code=200)
        if interactor is None:
            raise NotReadyError("the function has no model; its log says why")
        outcome = interactor.respond(event.body, request_id)
    except Exception as error:
        outcome = refused(error, Outcome[bytes](""))
    _log(context, outcome, request_id)
    if metrics:
        metrics.answered("/", outcome.status, time.perf_counter() - start)
    if interactor is None or outcome.reply is None:
        body = json.dumps({"error": outcome.error, "kind": outcome.kind})
        headers = {"Retry-After": _RETRY_SECONDS} if outcome.status == 503 else {}
        return Response(headers, body, "application/json", outcome.status)
    headers = {MODEL_HEADER: outcome.model, "Server-Timing": server_timing(outcome.timings)}
    return Response(headers, outcome.reply.decode("ascii"), "application/json", 200)


def _log(context: Context, outcome: Outcome[bytes], request_id: str) -> None:
    """Writes a log line; a logger that has lost its processor must not cost the reply."""
    level = "info" if not outcome.error else "error" if outcome.fault else "warn"
    facts = {"request": request_id, **outcome.log_line()}
    if outcome.fault:
        facts["trace"] = "".join(traceback.format_exception(outcome.fault, limit=-20))
    if outcome.reply is not None:
        facts["bytes"] = len(outcome.reply)
    with contextlib.suppress(Exception):
        what = repr(outcome.fault) if outcome.fault else outcome.error
        text = f"{outcome.kind}: {what}" if outcome.error else "answered"
        getattr(context.logger, f"{level}_with")(text, **facts)
