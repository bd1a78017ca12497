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
from typing import Any

from nuclio_sdk import Context, Event, Response

from icmformer import memory
from icmformer.errors import IcmformerError
from icmformer.serving.click_log import ClickLog
from icmformer.serving.metrics import CONTENT_TYPE
from icmformer.settings import Settings
from icmformer.timings import Timings, server_timing
from serverless.errors import INTERNAL, STATUS, NotReadyError
from serverless.interactor import Interactor
from serverless.settings import FunctionSettings
from serverless.watch import Watch

_RETRY_SECONDS = "30"  # a worker that starts again has its model by then
MODEL_HEADER = "X-Icmformer-Model"
"""Of replies: weights, profile and device, for whoever measures a deployed function."""


def init_context(context: Context) -> None:
    """Loads the model, warms it up and puts it, with caches and settings, into `context.user_data.interactor`.

    `context.user_data.watch` gets what counts requests.
    """
    context.user_data.interactor = context.user_data.watch = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd images, with paths of this machine
    memory.serve_threads()
    start = time.monotonic()
    try:
        settings = Settings.from_environment()
        interactor = Interactor.from_settings(settings, FunctionSettings.from_environment())
    except IcmformerError as error:
        context.logger.error(f"no model, every request will be answered 503: {error}")
    except Exception as error:
        context.logger.error_with(f"no model, every request will be answered 503: {error!r}", trace=_trace())
    else:
        context.user_data.interactor = interactor
        try:
            context.user_data.watch = Watch(interactor, ClickLog(settings.click_log))
        except Exception as error:  # masks are worth more than figures of them
            context.logger.warn(f"there will be no metrics and no click log: {error}")
        context.logger.info_with(
            f"ready: {interactor.model}", seconds=round(time.monotonic() - start, 1), reply=interactor.settings.reply
        )


def handler(context: Context, event: Event) -> Response:
    """Answers one request.

    Returns:
        200 with CVAT's JSON, or with metrics for a GET of /metrics; 4xx or 503 with one line of JSON, `error` and
        `kind`, that says what is wrong; 500 for a fault of our own, whose traceback goes to the log alone.
    """
    facts: dict[str, Any] = {"request": str(getattr(event, "id", "") or "")}
    start = time.perf_counter()
    watch: Watch | None = getattr(context.user_data, "watch", None)
    try:
        if watch and event.method == "GET" and str(event.path).partition("?")[0] == "/metrics":
            return Response(body=watch.text(), content_type=CONTENT_TYPE, status_code=200)
        interactor: Interactor | None = getattr(context.user_data, "interactor", None)
        if interactor is None:
            raise NotReadyError("the function has no model; its log says why")
        timings = Timings()
        reply = interactor.answer(event.body, facts, timings)
        _log(context, "info", "answered", facts)
        if watch:
            watch.answered(facts, timings, time.perf_counter() - start)
        headers = {MODEL_HEADER: interactor.model, "Server-Timing": server_timing(timings)}
        return Response(headers, reply.decode("ascii"), "application/json", 200)
    except IcmformerError as error:
        status, kind = next(((s, k) for known, s, k in STATUS if isinstance(error, known)), (500, INTERNAL))
        _log(context, "warn", f"{kind}: {error}", {"status": status, **facts})
        if watch:
            watch.refused(status, kind, time.perf_counter() - start)
        return _error(status, kind, str(error))
    except Exception as error:
        _log(context, "error", f"{INTERNAL}: {error!r}", {"status": 500, "trace": _trace(), **facts})
        if watch:
            watch.refused(500, INTERNAL, time.perf_counter() - start)
        return _error(500, INTERNAL, "the function failed; its log says more")


def _log(context: Context, level: str, message: str, facts: dict[str, Any]) -> None:
    """Writes a log line; a logger that has lost its processor must not cost the reply."""
    with contextlib.suppress(Exception):
        getattr(context.logger, f"{level}_with")(message, **facts)


def _error(status: int, kind: str, text: str) -> Response:
    body = json.dumps({"error": " ".join(text.split()), "kind": kind})
    headers = {"Retry-After": _RETRY_SECONDS} if status == 503 else {}
    return Response(headers, body, "application/json", status)


def _trace() -> str:
    return traceback.format_exc(limit=-20)
