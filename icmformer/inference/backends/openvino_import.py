"""OpenVINO without its telemetry: importing it as usual reports over the network that it is used."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def imported() -> Any:
    """The module `openvino`.

    Its tools ask the package `openvino_telemetry` to send an event, in a process of their own, and write an identifier
    into the user's home. Where that package cannot be imported, they go without.
    """
    if "openvino" not in sys.modules:
        before = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("openvino")
        finally:
            del sys.modules["openvino_telemetry"]
            if before is not None:
                sys.modules["openvino_telemetry"] = before
    return sys.modules["openvino"]
