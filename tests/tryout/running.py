"""`icmformer try` in a process of its own, as its user starts it."""

import os
import subprocess
import sys
import threading
from signal import SIGINT

from tests.conftest import ROOT


class Running:
    """The command until it serves.

    Args:
        words: Photos and options.
        program: Another installation's `icmformer`.
        environment: Variables besides those of the tests.
    """

    def __init__(self, *words, program=(sys.executable, "-m", "icmformer"), **environment):
        bare = {name: value for name, value in os.environ.items() if name not in ("BROWSER", "DISPLAY")}
        self.process = subprocess.Popen(
            [*program, "try", *map(str, words)],
            cwd=ROOT,
            env={**bare, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        watch = threading.Timer(120, self.process.kill)  # a line is not waited for without an end
        watch.start()
        self.line = self.process.stdout.readline()
        watch.cancel()
        self.address = self.line.partition(" on ")[2].partition(";")[0]
        if not self.address.startswith("http"):
            self.process.kill()
            raise AssertionError(self.line + self.process.communicate()[1])

    def stop(self, number=SIGINT):
        """Its exit status, and what it said on the way to it."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        said = self.process.communicate(timeout=30)[1]
        return self.process.returncode, said
