"""Settings of the Label Studio backend: those of the engine, of fetching, and its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from icmformer.errors import ConfigError
from icmformer.fetching.settings import FetchSettings
from icmformer.serving.logs import LogFormat
from icmformer.settings import one_of, path, text, variable, whole

from .training_options import read_options

_MB = 1 << 20


def _level(name: str, given: str) -> int:
    level = logging.getLevelNamesMapping().get(given.strip().upper())
    if level is None:
        raise ConfigError(f"{name} must be DEBUG, INFO, WARNING or ERROR, got {given.strip()!r}")
    return level


@dataclass(frozen=True)
class BackendSettings(FetchSettings):
    """What the backend goes by."""

    user: str = variable("BASIC_AUTH_USER", "", text)
    password: str = variable("BASIC_AUTH_PASS", "", text)
    max_body_bytes: int = variable("ICMFORMER_MAX_BODY_MB", 64 << 20, whole(1, 4096, _MB))
    concurrency: int = variable("ICMFORMER_CONCURRENCY", 1, whole(1, 64))
    queue: int = variable("ICMFORMER_QUEUE", 32, whole(0, 10_000))
    queue_seconds: int = variable("ICMFORMER_QUEUE_SECONDS", 20, whole(1, 90))
    polygon_points: int = variable("ICMFORMER_POLYGON_POINTS", 200, whole(4, 100_000))
    log_level: int = variable("LOG_LEVEL", logging.INFO, _level)
    log_format: LogFormat = variable("LOG_FORMAT", "text", one_of("text", "json"))

    training_dir: Path | None = variable("ICMFORMER_TRAINING_DIR", None, path)
    training_every: int = variable("ICMFORMER_TRAINING_EVERY", 0, whole(0, 1_000_000))
    training_options: tuple[str, ...] = variable("ICMFORMER_TRAINING_OPTIONS", (), read_options)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training_dir is None and self.training_every:
            raise ConfigError("ICMFORMER_TRAINING_EVERY needs ICMFORMER_TRAINING_DIR, a folder for runs")
        if bool(self.user) != bool(self.password):
            raise ConfigError("BASIC_AUTH_USER and BASIC_AUTH_PASS go together; one of them is missing")

    @property
    def places(self) -> int:
        """Requests that the network works on at once; those that are to share a pass must get as far as it."""
        return max(self.concurrency, self.batch)
