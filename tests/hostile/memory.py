"""`python -m tests.hostile.memory NAME...`: what bad requests of the corpus take of memory, one after the other.

Prints a JSON object, name -> bytes by which the process was larger than before at its largest. The code of both servers
runs in this process; what a request took is given back before the next.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

from icmformer.memory import release


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) << 10


def growth(call: object) -> int:
    """Bytes by which this process was larger than before while something was called."""
    release()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size so far
    before = _status("VmRSS")
    call()  # type: ignore[operator]
    return _status("VmHWM") - before


def main(names: list[str]) -> int:
    """The command line."""
    import os
    from unittest import mock

    import nuclio_sdk

    from ls_backend.app import create_app
    from ls_backend.backend import Backend
    from ls_backend.settings import BackendSettings
    from serverless.interactor import load
    from serverless.settings import FunctionSettings
    from tests.hostile import corpus
    from tests.hostile.conftest import ask_function
    from tests.serverless.conftest import Log

    warnings.simplefilter("ignore")
    context = nuclio_sdk.Context(logger=Log(), worker_id=0)
    with mock.patch.dict(os.environ, {"ICMFORMER_CACHE_DIR": tempfile.mkdtemp(), "ICMFORMER_DEVICE": "cpu"}):
        settings = BackendSettings.from_environment()
        context.user_data.interactor = load(FunctionSettings.from_environment())
        client = create_app(Backend.from_settings(settings), settings).test_client()
    entries = {entry.name: entry for entry in corpus.entries()}
    taken = {}
    for name in names:
        entry = entries[name]
        content = entry.sent()
        if entry.target == corpus.FUNCTION:
            taken[name] = growth(lambda c=content: ask_function(context, c, (("Content-Type", corpus.JSON_TYPE),)))
        else:
            taken[name] = growth(lambda c=content: client.post("/predict", data=c))
    print(json.dumps(taken))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
