"""A run's checkpoints: written whole or not at all, while the training goes on."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from icmformer.disk import writing
from icmformer.errors import WeightsError
from icmformer.weights import save
from icmformer.weights.quantise import Stored
from icmformer.weights.serving_defaults import ServingDefaults

from .config import as_mapping
from .trainer import Trainer

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"
"""Names in a run's folder: the last state, and the one with the fewest clicks on the validation images."""


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, from a copy of the state in the machine's memory.

    A step waits for the copy alone; a checkpoint waits for the one before it. Leaving the context waits for the last
    one; an error that a write met is raised by the next call or there.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(self, trainer: Trainer, path: Path, best: float = math.inf) -> None:
        """Begins to write atomically: a kill at any moment leaves the old file or the new one, whole.

        Args:
            trainer: What to save.
            path: The file.
            best: The fewest clicks that a validation has found so far.

        Raises:
            OSError: The checkpoint before this one could not be written.
        """
        self.wait()
        content = {"state": trainer.state_dict(), "config": as_mapping(trainer.whole), "best": best}
        self._pending = self._thread.submit(_write, _copied(content), path)

    def check(self) -> None:
        """Raises what the last write met, if it has ended and failed; waits for nothing.

        Raises:
            OSError: The checkpoint could not be written; a `DiskFullError` where there is no room.
        """
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until what was begun is on the disk.

        Raises:
            OSError: It could not be written; a `DiskFullError` where there is no room.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()


def _copied(value: Any) -> Any:
    """The same with every tensor copied to the machine's memory: the next step changes the ones in use."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return type(value)(_copied(inner) for inner in value) if isinstance(value, list | tuple) else value


def _write(content: Mapping[str, Any], path: Path) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with writing(path.parent, temporary=(temporary,)):
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the machine's memory.

    Returns:
        `state` (of the `Trainer`), `config` (as a mapping) and `best`.

    Raises:
        WeightsError: There is no such file, or it is no checkpoint.
    """
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {"state": content["state"], "config": dict(content["config"]), "best": float(content["best"])}
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is not a checkpoint of a training run: {error}") from error


def load_checkpoint(trainer: Trainer, path: Path) -> tuple[float, list[str]]:
    """Takes a run up again.

    Returns:
        The fewest clicks that a validation had found, and the parts of the config that are not what they were.

    Raises:
        WeightsError: A file that is no checkpoint, or one of another network.
    """
    content = read_checkpoint(path)
    trainer.load_state_dict(content["state"])
    before, now = content["config"], as_mapping(trainer.whole)
    return content["best"], sorted(key for key in now.keys() & before.keys() if _differs(now[key], before[key]))


def _differs(now: Any, before: Any) -> bool:
    """Whether a config's value has changed; keys that only one of two mappings has, as versions do, are left out."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        return any(now[key] != before[key] for key in now.keys() & before.keys())
    return bool(now != before)


def export(path: Path, output: Path, name: str, store: Stored = "fp16") -> int:
    """Writes a checkpoint's averaged weights to a folder, in the native form; returns the samples it had seen.

    Raises:
        WeightsError: There is no such file, or it is no checkpoint.
    """
    checkpoint = read_checkpoint(path)
    config, state = checkpoint["config"], checkpoint["state"]
    about = {"samples": state["seen"], "training": config}
    serving = ServingDefaults.of(config.get("serving", config))  # beside the other keys in earlier checkpoints
    save(output, config["network"], state["average"], name, about, store, serving)
    return int(state["seen"])
