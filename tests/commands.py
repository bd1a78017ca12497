"""Runs commands of this project in the process of the tests, which spares each the seconds of importing torch."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

OPTIONAL = (
    *("openvino", "onnx", "onnxscript", "pycocotools", "timm", "torchvision", "pooch"),
    *("flask", "gunicorn", "prometheus_client", "urllib3", "label_studio_ml", "label_studio_sdk"),
    *("nuclio_sdk", "cvat_sdk", "cvat_cli", "playwright", "kubernetes_validate", "compose_spec"),
)
"""Packages that a machine may lack which only trains and measures."""


def run_module(module, *words):
    """`python -m MODULE WORDS...` without a process of its own.

    Returns:
        Status and what was printed, as from `subprocess.run`.
    """
    out, err = io.StringIO(), io.StringIO()
    code, handlers = 0, {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", [module, *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # of a module that was imported before
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
            if isinstance(code, str):  # as the interpreter does it
                print(code, file=err)
                code = 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess([module, *words], code, out.getvalue(), err.getvalue())


def run_without(program, *words):
    """What a program prints, in a process of its own, where nothing of `OPTIONAL` is installed."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"  # importing one of them fails
    code = [sys.executable, "-c", block + program, *map(str, words)]
    root = Path(__file__).parents[1]
    done = subprocess.run(code, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
