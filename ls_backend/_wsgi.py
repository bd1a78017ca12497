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
from ls_backend.app import create_app
from ls_backend.backend import Backend
from ls_backend.settings import BackendSettings


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


try:
    settings = BackendSettings.from_environment()
    if __name__ == "__main__":
        from ls_backend.model import serve

        serve(make_backend(settings), settings, sys.argv[1:])
    else:
        app = create_app(make_backend(settings), settings)
except IcmformerError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(4) from None  # 4 keeps gunicorn from starting the worker again and again
