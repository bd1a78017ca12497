"""The command line where Python has no Unix modules, as on Windows."""

import subprocess
import sys

from tests.conftest import ROOT, TINY
from tests.doctor import forget_environment

PROGRAM = """
import importlib, pathlib, pkgutil, sys
sys.modules.update(dict.fromkeys(("fcntl", "grp", "pwd", "resource", "syslog", "termios")))  # None: cannot be imported
import icmformer.cli, icmformer.diagnosis
from icmformer.serving.click_log import ClickLog
for package in (icmformer.cli, icmformer.diagnosis):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import icmformer.applications.ls_backend.doctor, icmformer.applications.serverless.doctor
from icmformer.cli.main import main
log = ClickLog(pathlib.Path(sys.argv[2]), most_bytes=0)
for _ in range(3):
    log.write("click", "cvat", positive=1, negative=0, box=False, result="mask", milliseconds=20.0)
assert main(["clicks", "report", sys.argv[2]]) == 0
assert main(["doctor", "--device", "cpu", "--weights", sys.argv[1]]) == 0
"""


def test_doctor_and_clicks_run_there_and_everything_of_the_command_line_can_be_imported(tmp_path, monkeypatch):
    forget_environment(monkeypatch)
    command = [sys.executable, "-c", PROGRAM, TINY, tmp_path / "clicks.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 requests" in done.stdout  # appended without a lock, and nothing was put aside
    assert "all is well" in done.stdout
