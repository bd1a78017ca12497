"""What a run tells of itself: a log of every step, TensorBoard scalars and pictures, a progress bar."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from icmformer import Click
from icmformer.disk import writing
from icmformer.images.masks import overlay
from icmformer.weights.serving_defaults import THRESHOLD

from .trainer import StepResult

SHOWN = 4
_SCALARS_EVERY = 10  # steps, for TensorBoard; log.jsonl has all


def picture(result: StepResult) -> NDArray[np.uint8]:
    """Samples of a batch, one below the other: target left, prediction right, with the clicks made."""
    rows = []
    for i in range(min(SHOWN, len(result.batch.numbers))):
        image = np.ascontiguousarray(result.batch.image[i].permute(1, 2, 0).numpy())  # (3, S, S) -> (S, S, 3)
        kinds = result.points[i].cpu().view(2, -1, 3)  # (2M, 3) -> positive and negative ones
        clicks = [
            Click(float(column) + 0.5, float(row) + 0.5, positive)
            for kind, positive in zip(kinds, (True, False), strict=True)
            for row, column, order in kind.tolist()
            if order >= 0
        ]
        guess = result.logits[i, 0].float().sigmoid().cpu().numpy() > THRESHOLD
        truth = (result.batch.target[i, 0] == 1).numpy()
        rows.append(np.hstack([overlay(image, truth, clicks), overlay(image, guess, clicks)]))
    return np.asarray(np.vstack(rows), np.uint8)


class Monitor:
    """Writes `log.jsonl` and `tensorboard/` in the run's folder, and moves a progress bar.

    Args:
        out: The run's folder.
        seen: Samples the run goes on from; what an earlier, killed process logged beyond them is dropped.
        total: Samples of the whole run.
        pictures: Samples between pictures; 0 for none.
    """

    def __init__(self, out: Path, seen: int, total: int, pictures: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._out = out
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            log = out / "log.jsonl"
            _drop_later(log, seen)
            self._file = log.open("a")
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=seen + 1)
        self._bar = tqdm(total=total, initial=seen, unit="sample", mininterval=5, smoothing=0.05, dynamic_ncols=True)
        self._pictures, self._next_picture = pictures, seen
        self._steps = 0

    def step(self, seen: int, result: StepResult, seconds: float, waited: float) -> None:
        """After each step.

        Args:
            seen: Samples so far, of all processes.
            result: Of the step.
            seconds: Since the step before.
            waited: Of these, those without a batch: data that comes too slowly.

        Raises:
            DiskFullError: There is no room to write it.
        """
        with writing(self._out):
            self._step(seen, result, seconds, waited)

    def _step(self, seen: int, result: StepResult, seconds: float, waited: float) -> None:
        speed = {"samples_per_second": (seen - self._bar.n) / seconds, "data_wait": waited / seconds}
        rounded = {name: float(f"{value:.4g}") for name, value in speed.items()}
        self._write({"seen": seen, "time": round(time.time(), 2), **result.scalars, **rounded})
        self._bar.update(seen - self._bar.n)
        self._bar.set_postfix({k: f"{v:.3g}" for k, v in result.scalars.items()}, refresh=False)
        self._steps += 1
        if self._steps % _SCALARS_EVERY == 1:
            for name, value in {**result.scalars, **speed}.items():
                self._board.add_scalar(f"train/{name}", value, seen)
        if self._pictures and seen >= self._next_picture:
            self._board.add_image("target, prediction", picture(result), seen, dataformats="HWC")
            self._next_picture = seen + self._pictures

    def validation(self, seen: int, figures: dict[str, float]) -> None:
        """After each validation; errors as those of `step`."""
        with writing(self._out):
            self._write({"seen": seen, "time": round(time.time(), 2), "validation": figures})
            for name, value in figures.items():
                self._board.add_scalar(f"validation/{name}", value, seen)
        self._bar.write(f"{seen:,} samples: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        try:
            with writing(self._out):
                try:
                    self._board.close()
                finally:
                    self._file.close()
        except OSError:
            if error is None:  # else it ends the run already
                raise


def _drop_later(log: Path, seen: int) -> None:
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut short by a kill
            continue
        if row["seen"] <= seen:
            kept.append(line + "\n")
    temporary = log.with_suffix(".tmp")
    with writing(log.parent, temporary=(temporary,)):
        temporary.write_text("".join(kept))
        temporary.replace(log)
