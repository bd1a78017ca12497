"""What decides a fine-tuning run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icmformer.errors import ConfigError
from icmformer.weights import Weights


@dataclass(frozen=True)
class FinetuneSettings:
    """A team's annotations, the weights to begin with, and how to train and judge: the options of the command.

    Attributes:
        lr: Peak learning rate; None leaves it to the network's family.
        devices: The first trains, all of them evaluate.

    Raises:
        ConfigError: A value that cannot be used.
    """

    annotations: Path
    out: Path
    images: Path | None = None
    weights: str = "starter"
    name: str | None = None
    install: bool = False
    held_out: float = 0.2
    samples: int = 3000
    batch: int = 8
    lr: float | None = None
    objects: int = 200
    profile: str = "fast"
    devices: Sequence[str] = ("auto",)
    jobs: int = 1
    workers: int = 1
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ConfigError(f"--held-out must lie between 0 and 1, got {self.held_out}")
        numbers = self.samples, self.batch, self.objects, self.jobs
        if min(numbers) < 1 or self.workers < 0 or (self.lr is not None and not self.lr > 0):
            raise ConfigError("--samples, --batch, --objects, --jobs and --lr must be positive")

    @property
    def data(self) -> Path:
        """Folder of the two parts of the images."""
        return self.out / "data"

    def claim(self, weights: Weights) -> None:
        """Writes into the run's folder what decides the run, so that another one is not mixed in.

        Raises:
            ConfigError: The folder is another run's; nothing in it has changed.
        """
        deciding = {
            "annotations": _digest(self.annotations),
            "images": str(self.images.resolve()) if self.images else None,
            "held out": self.held_out,
            "weights": weights.identity,
            "samples": self.samples,
            "batch": self.batch,
            "learning rate": self.lr,
            "seed": self.seed,
            "objects": self.objects,
            "profile": self.profile,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        mark = self.out / "settings.json"
        if not mark.exists():
            mark.write_text(json.dumps(deciding, indent=2) + "\n")
            return
        known = json.loads(mark.read_text())
        other = ", ".join(sorted(key for key, value in deciding.items() if value != known.get(key)))
        if other:
            raise ConfigError(f"{self.out} holds another run (different {other}); give another --out, or delete it")


def _digest(path: Path) -> str:
    """Names an export by its content; a folder by its files' names, sizes and times."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    lines = [f"{p.relative_to(path)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
