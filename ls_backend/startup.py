"""The backend with its settings, weights and logs, as all three ways of serving it start it."""

from __future__ import annotations

import contextlib
import logging.config
import sys
import warnings
from collections.abc import Iterator

from flask import Flask

from icmformer import memory
from icmformer.errors import IcmformerError
from icmformer.serving.logs import log_config

from .app import create_app
from .backend import Backend
from .settings import BackendSettings


def make_backend(settings: BackendSettings) -> Backend:
    """Sets logging and threads up, and loads the model.

    Raises:
        IcmformerError: Weights, device or settings that cannot be used.
    """
    logging.config.dictConfig(log_config(settings.log_level, settings.log_format))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd images, with paths of this machine
    memory.for_servers()
    backend = Backend.from_settings(settings)
    logging.getLogger("icmformer.label_studio").info("ready: %s", backend.model_version)
    return backend


def application() -> Flask:
    """What a WSGI server runs. Ends the process with status 4 where settings or weights cannot be used."""
    with _told():
        settings = BackendSettings.from_environment()
        return create_app(make_backend(settings), settings)


def main(argv: list[str]) -> None:
    """Serves under the official runtime, `label-studio-ml start ls_backend`."""
    from .model import serve

    with _told():
        settings = BackendSettings.from_environment()
        serve(make_backend(settings), settings, argv)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except IcmformerError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(4) from None  # 4 keeps gunicorn from starting the worker again and again
