"""Runs commands of this project in the process of the tests, which spares each the seconds of importing torch."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import warnings
from unittest import mock


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
