"""Logs that tell which request a line is about, and a folder for the metrics of several processes."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]
current_request: ContextVar[str] = ContextVar("current_request", default="")
"""The id of the request that this thread works on; empty outside of one."""


@contextmanager
def shared_metrics(workers: int) -> Iterator[None]:
    """Gives processes started within a folder to count into, so that any of them reports the figures of all."""
    name = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own, read when it is imported
    if workers == 1 or os.environ.get(name):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="icmformer-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            del os.environ[name]


def log_config(level: int, form: LogFormat) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`: one stream, each line with the id of its request.

    Args:
        level: Of all loggers.
        form: `text` for people, `json` for collectors: one object a line.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": _WithRequest}},
        "formatters": {
            "text": {"format": "%(asctime)s %(levelname)s %(name)s:%(about)s %(message)s"},
            "json": {"()": JsonFormatter},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form, "filters": ["request"]}},
        "root": {"level": level, "handlers": ["stderr"]},
    }


class _WithRequest(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        request = current_request.get()
        record.__dict__.update(request=request, about=f" [{request}]" if request else "")
        return True


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, request, message, and what `extra={"facts": {...}}` holds."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := getattr(record, "request", ""):
            line["request"] = request
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
