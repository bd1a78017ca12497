"""A small program in the place of `training.finetune`: it tells how it stands as that does, and ends as it is told."""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from icmformer.weights.pointer import LOCK_FILE
from ls_backend.settings import BackendSettings
from ls_backend.training_jobs import TrainingJobs

PROGRAM = """
import json, os, sys, time
from pathlib import Path

def tell(**facts):
    part = out / "status.part"
    part.write_text(json.dumps({"pid": os.getpid(), "started": "2026-01-02T03:04:05+00:00", "total": 100, **facts}))
    os.replace(part, out / "status.json")

out = Path(sys.argv[sys.argv.index("--out") + 1])
root, kept = out.parents[1], out / "samples"
done = int(kept.read_text()) if kept.exists() else 0
print(f"going on after {done} samples", flush=True)
(out / "run").mkdir(exist_ok=True)
(out / "run" / "checkpoint.pt").write_text("large")
if "--lr" in sys.argv:
    print("usage: ...\\nfinetune: error: argument --lr: invalid value", flush=True)
    raise SystemExit(2)
tell(state="running", stage="training", done=done)
while not (root / "go").exists() and root.exists():
    done += 1
    (out / "part").write_text(str(done))
    os.replace(out / "part", kept)
    tell(state="running", stage="training", done=done)
    time.sleep(0.02)
seen = {"argv": sys.argv[1:], "nice": os.nice(0), "environment": dict(os.environ), "leads": os.getsid(0) == os.getpid()}
(out / "seen.json").write_text(json.dumps(seen))
end = json.loads((root / "go").read_text())
tell(**{"stage": "finished", "done": done, **end})
"""
DRAWN = [{"id": "a", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0], "brushlabels": ["Cat"]}}]
"""The result of an annotation with a mask."""


@dataclass
class Told:
    """What the metrics were told."""

    outcomes: list = field(default_factory=list)
    shares: list = field(default_factory=list)

    def training(self, running, progress):
        self.shares.append(progress if running else None)

    def trained(self, outcome):
        self.outcomes.append(outcome)


class Trainings:
    """A folder for trainings with the stand-in, and the settings of a backend."""

    def __init__(self, home):
        self.home, self.root = home, home / "trainings"
        self.store = home / "store"
        self.store.mkdir()
        (self.store / LOCK_FILE).touch()  # of a store in which nothing is current yet
        self.program = home / "trainer.py"
        self.program.write_text(PROGRAM)

    def settings(self, **other):
        given = {"url": "http://studio.example:8080", "api_key": "secret-token", "user": "u", "password": "secret-pass"}
        given |= {"weights": str(self.store), "training_dir": self.root, "cache_dir": self.home / "cache"}
        return BackendSettings(**(given | other))

    def jobs(self, metrics=None, **other):
        return TrainingJobs(self.settings(**other), metrics or Told(), (sys.executable, str(self.program)))

    def end(self, **status):
        """Lets the trainings end so, now and from now on."""
        part = self.root / "part"
        part.write_text(json.dumps({"state": "not promoted", **status}))
        part.rename(self.root / "go")

    def stop_ending(self):
        (self.root / "go").unlink()

    def run(self, name):
        return self.root / name

    def status(self, name):
        return json.loads((self.run(name) / "status.json").read_text())


def wait_for(what, seconds=20.0):
    """The first true answer of a function."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
    return found


def trains(jobs, name=None):
    """The status of a training that has begun to train."""

    def there():
        status = jobs.status()
        ready = status["state"] == "running" and status["stage"] == "training" and status["done"] > 2
        return status if ready and name in (None, status["run"]) else None

    return wait_for(there)


def ended(jobs):
    """The status once no training lives."""
    return wait_for(lambda: not jobs.runs.training() and jobs.status())


def process_of(path):
    """The number of the process that a run's status names."""
    return int(json.loads((Path(path) / "status.json").read_text())["pid"])
