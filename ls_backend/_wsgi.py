"""`gunicorn ls_backend._wsgi:app`: the model is loaded before the port opens; `python -m ls_backend` sets the rest."""

from __future__ import annotations

import logging
import os
import sys

from icmformer.errors import IcmformerError
from icmformer.settings import Settings
from ls_backend.app import create_app
from ls_backend.service import Backend
from ls_backend.settings import BackendSettings

logging.basicConfig(
    level=os.environ.get("LOG_LEVEL", "INFO").upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
)


def _make() -> object:
    settings, own = Settings.from_environment(), BackendSettings.from_environment()
    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    backend = Backend.from_settings(settings, own)
    logging.getLogger("icmformer.label_studio").info("ready: %s", backend.model_version)
    return create_app(backend, own)


try:
    app = _make()
except IcmformerError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(4) from None  # 4 keeps gunicorn from starting the worker again and again
