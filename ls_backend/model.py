"""The same backend for the official runtime: `label-studio-ml start ls_backend`, label-studio-ml 2.x.

That package is on GitHub only (docs/label_studio.md) and imported only here; the routes of `ls_backend.app` do without.
"""

from __future__ import annotations

import argparse
import logging
import threading
from typing import Any

from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse

from icmformer.serving.errors import RequestError, status_of

from .backend import Backend
from .settings import BackendSettings
from .training_jobs import START

log = logging.getLogger("icmformer.label_studio")


class _Shared:
    """One backend for all requests: the runtime makes a model object for each."""

    backend: Backend | None = None
    lock = threading.Lock()


def _backend() -> Backend:
    with _Shared.lock:
        if _Shared.backend is None:
            _Shared.backend = Backend.from_settings(BackendSettings.from_environment())
        return _Shared.backend


def serve(backend: Backend, settings: BackendSettings, argv: list[str]) -> None:
    """Serves a backend under the official runtime, with the options that `label-studio-ml start` passes on."""
    from label_studio_ml.api import init_app

    parser = argparse.ArgumentParser(prog="label-studio-ml start ls_backend")
    parser.add_argument("-p", "--port", type=int, default=9090, help="port (9090)")
    parser.add_argument("--host", default="127.0.0.1", help="address (127.0.0.1); 0.0.0.0 for all")
    args, others = parser.parse_known_args(argv)
    if others:
        log.warning("ignored: %s; settings come from the environment", " ".join(others))
    _Shared.backend = backend
    app = init_app(ICMFormerModel, basic_auth_user=settings.user or None, basic_auth_pass=settings.password or None)
    app.run(host=args.host, port=args.port, threaded=True)


class ICMFormerModel(LabelStudioMLBase):  # type: ignore[misc]
    """Smart keypoints and rectangles by the engine."""

    def setup(self) -> None:
        """Names the model's version; loads the weights if no request did."""
        self.set("model_version", _backend().model_version)

    def predict(
        self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
    ) -> ModelResponse:
        """Answers as `/predict` does; a bad request, which the runtime has no status for, gets an empty reply."""
        body = {"tasks": tasks, "label_config": self.label_config, "params": {"context": context}}
        outcome = _backend().predict(body)
        if outcome.fault is not None:
            raise RuntimeError(outcome.error) from outcome.fault
        reply = outcome.reply or {"results": []}
        return ModelResponse(predictions=reply["results"], model_version=outcome.model)

    def fit(self, event: str, data: Any, **kwargs: Any) -> dict[str, Any]:
        """Does what the webhook of `ls_backend.app` does: Start Training, and the clicks of saved annotations."""
        backend = _backend()
        try:
            if event == START:
                return backend.train(data)
            save = backend.saved(data)
        except RequestError as error:
            _, kind = status_of(error)
            log.warning("%s: %s", kind, error)
            backend.metrics.refused(kind)
            return {"status": f"{kind}: {error}"}
        return {"status": "noted" if save and save.regions else "ignored"}
