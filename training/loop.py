"""The training loop: iterative rounds, one training pass, averaged weights, exact resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from icmformer.models import ClickNetwork, build_network
from training.config import TrainConfig
from training.losses import IGNORE, normalized_focal_loss
from training.optim import AveragedWeights, learning_rate, make_optimizer
from training.points import add_click, next_click
from training.samples import Batch, RunSampler, Sample, SampleSet, collate, sample_rng

THRESHOLD = 0.49


@dataclass
class Trainer:
    """A run's state and its one step.

    Everything that decides the next step is in `state_dict`; a run continued from it goes on as if never stopped.
    """

    config: TrainConfig
    device: torch.device

    def __post_init__(self) -> None:
        torch.manual_seed(self.config.seed)
        self.network: ClickNetwork = build_network(self.config.network).to(self.device)
        self.optimizer = make_optimizer(self.network, self.config.optim)
        self.average = AveragedWeights(self.network, self.config.optim.ema)
        self.seen = 0
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.step = state["seen"], state["step"]
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"].cpu())

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step on one batch; returns the scalars worth logging."""
        image, target = batch.image.to(self.device), batch.target.to(self.device)
        points, previous = self._rounds(batch, image)
        rate = learning_rate(self.config.optim, self.seen, self.config.samples)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        with self._autocast():
            logits: Tensor = self.network(image, previous, points)
        losses = normalized_focal_loss(logits, target)
        loss = losses.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.clip)
        self.optimizer.step()
        self.step += 1
        self.seen += self.config.batch
        self.average.update(self.network, self.step)
        return {"loss": loss.item(), "iou": _mean_iou(logits.detach(), target), "norm": norm.item(), "lr": rate}

    @torch.no_grad()
    def _rounds(self, batch: Batch, image: Tensor) -> tuple[Tensor, Tensor]:
        """Zero to `max_rounds` predictions, each followed by a correcting click: the clicks and the previous mask."""
        config = self.config
        points = batch.points.numpy().copy()
        previous = torch.zeros_like(image[:, :1])
        rounds = int(np.random.default_rng((config.seed, self.step, 2**31)).integers(config.max_rounds + 1))
        if not rounds:
            return batch.points.to(self.device), previous
        self.network.eval()
        targets = batch.target[:, 0].to(torch.uint8).numpy()  # -1 becomes 255
        with self._autocast():
            features = self.network.encode_image(image)
        for number in range(rounds):
            with self._autocast():
                logits = self.network.decode(features, previous, torch.from_numpy(points).to(self.device))
            previous = logits.float().sigmoid()
            masks = (previous[:, 0] > THRESHOLD).cpu().numpy()
            for i, sample in enumerate(batch.numbers):
                click = next_click(masks[i], targets[i], sample_rng(config.seed, sample, number + 1))
                if click:
                    add_click(points[i], click)
        return torch.from_numpy(points).to(self.device), previous

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _mean_iou(logits: Tensor, target: Tensor) -> float:
    mask, truth, valid = logits.float().sigmoid() > THRESHOLD, target == 1, target != IGNORE
    both = (mask & truth & valid).sum(dim=(1, 2, 3))
    either = ((mask | truth) & valid).sum(dim=(1, 2, 3)).clamp(min=1)
    return float((both / either).mean())


def batches(
    samples: SampleSet, config: TrainConfig, start: int, workers: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The run's batches from sample `start` on."""
    loader: DataLoader[Sample] = DataLoader(
        samples,
        batch_size=config.batch // world,
        sampler=RunSampler(start, config.samples, config.batch, rank, world),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # the loader's own draws must not move the run's random state
    )
    yield from loader


def save_checkpoint(trainer: Trainer, path: Path, raw_config: dict[str, Any]) -> None:
    """Writes the state atomically: a kill at any moment leaves the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({"state": trainer.state_dict(), "config": raw_config}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def run(
    trainer: Trainer,
    source: Iterator[Batch],
    save: Callable[[], None],
    log: Callable[[dict[str, float]], None],
    should_stop: Callable[[], bool],
    save_minutes: float = 5.0,
) -> None:
    """Steps until the batches end or `should_stop` says so; saves every few minutes and at the end."""
    last_save = time.monotonic()
    for batch in source:
        log(trainer.train_step(batch))
        if should_stop():
            break
        if time.monotonic() - last_save > 60 * save_minutes:
            save()
            last_save = time.monotonic()
    save()
