"""`gunicorn ls_backend._wsgi:app`, and what `label-studio-ml start ls_backend` runs as a script.

`python -m ls_backend` goes here too, and sets gunicorn up so that the port opens once the model is loaded.
"""

from __future__ import annotations

import logging.config
import sys
import warnings

from icmformer import memory
from icmformer.errors import IcmformerError
from icmformer.serving.logs import log_config
from icmformer.settings import Settings
from ls_backend.app import create_app
from ls_backend.service import Backend
from ls_backend.settings import BackendSettings, log_options


def make_backend() -> Backend:
    """Reads the settings, sets logging and threads up, and loads the model.

    Raises:
        IcmformerError: Weights, device or settings that cannot be used.
    """
    logging.config.dictConfig(log_config(*log_options()))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd images, with paths of this machine
    memory.serve_threads()
    settings, own = Settings.from_environment(), BackendSettings.from_environment()
    if settings.threads:
        import torch

        torch.set_num_threads(settings.threads)
    backend = Backend.from_settings(settings, own)
    logging.getLogger("icmformer.label_studio").info("ready: %s", backend.model_version)
    return backend


try:
    if __name__ == "__main__":
        from ls_backend.model import serve

        serve(make_backend(), sys.argv[1:])
    else:
        app = create_app(make_backend(), BackendSettings.from_environment())
except IcmformerError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(4) from None  # 4 keeps gunicorn from starting the worker again and again
