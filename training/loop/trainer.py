"""The training loop: iterative rounds, one training pass, averaged weights, exact resume."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from icmformer.errors import IcmformerError, TrainingError, WeightsError
from icmformer.layers.blocks import SwinBlock
from icmformer.models import ClickNetwork, ImageFeatures, build_network
from icmformer.models.swin import ICMFormerSwin
from icmformer.weights.serving_defaults import THRESHOLD

from .boxes import ellipses
from .clicks import used_slots
from .config import Stage, TrainConfig, stages
from .corrections import Corrections
from .gradient_checkpointing import checkpoint_blocks
from .initialisation import initialise_as_published
from .losses import AdaptiveIoU, normalized_focal_loss
from .optimiser import (
    AveragedWeights,
    OptimizerStates,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from .published_recipe import STOCHASTIC_DEPTH
from .samples import Batch, RunSampler, Sample, SampleSet, collate


@dataclass(frozen=True)
class StepResult:
    """What a step tells of itself.

    Attributes:
        scalars: Loss, adaptive IoU, gradient norm and learning rate.
        batch: The last part of the batch that was seen.
        points: Its clicks, those of the rounds included.
        logits: What the network made of it.
    """

    scalars: dict[str, float]
    batch: Batch
    points: Tensor
    logits: Tensor


class IterativePass(nn.Module):
    """A training pass: encodes the image once, simulates rounds of clicks without gradients, then predicts with them.

    One module, so that distributed wrappers see one forward pass.

    Args:
        network: The network.
        threshold: Probability above which a pixel counts as the object's.
        anywhere: As `Corrections` takes it.
        compiled: Let torch compile the network, which takes a minute or two at the first steps.
    """

    def __init__(
        self, network: ClickNetwork, threshold: float = THRESHOLD, anywhere: float = 0.0, compiled: bool = False
    ) -> None:
        super().__init__()
        self.network, self.threshold = network, threshold
        self._encode: Callable[[Tensor], ImageFeatures] = network.encode_image
        self._decode: Callable[[ImageFeatures, Tensor], Tensor] = network.decode_map
        if compiled:
            # With its reordering, torch 2.13 reads gradients of enlarged maps before they are added up.
            self._encode = torch.compile(self._encode, dynamic=False, options={"reorder_for_peak_memory": False})
            self._decode = torch.compile(self._decode, dynamic=False, options={"reorder_for_peak_memory": False})
        self._corrections = Corrections(torch.get_num_threads(), anywhere)
        self._drops_paths = any(isinstance(m, SwinBlock) and m.drop_path > 0 for m in network.modules())

    def forward(self, image: Tensor, batch: Batch, rounds: int, seed: int) -> tuple[Tensor, Tensor]:
        """Returns the logits (B, 1, H, W) and the clicks (B, 2N, 3) they come from."""
        features = self._encode(image)
        points, previous = self._rounds(image, features, batch, rounds, seed)
        return self._decode(features, self.network.prompt_map(previous, points)), points

    @torch.no_grad()
    def _rounds(
        self, image: Tensor, features: ImageFeatures, batch: Batch, rounds: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions in evaluation mode, each followed by a correcting click: the clicks and the previous mask."""
        device = features.tensors[0].device
        points = batch.points.numpy().copy()
        previous = torch.zeros((len(points), 1, *features.size), device=device)
        if batch.boxes is not None:
            previous = ellipses(batch.boxes.to(device, non_blocking=True), features.size)
        if batch.previous is not None:  # of samples that have no box
            previous = previous + batch.previous.to(device, non_blocking=True).float() / 255
        target = batch.target.to(device, non_blocking=True)
        detached = ImageFeatures(features.size, tuple(t.detach() for t in features.tensors))
        was_training = self.network.training
        self.network.eval()
        if rounds and self._drops_paths:  # the features above lack what was dropped
            detached = self._encode(image)
        for number in range(rounds):
            used = torch.from_numpy(used_slots(points)).to(device)
            logits = self._decode(detached, self.network.prompt_map(previous, used))
            previous = logits.float().sigmoid()
            self._corrections(points, previous > self.threshold, target, batch.numbers, seed, number + 1)
        self.network.train(was_training)
        torch.clear_autocast_cache()  # older versions of torch keep casts made here, which carry no gradient
        return torch.from_numpy(used_slots(points)).to(device), previous


class Trainer:
    """A run's state and its one step.

    Everything that decides the next step is in `state_dict`; a run continued from it goes on as if never stopped.

    Args:
        config: Of the run.
        device: Where the network is.
        compiled: Let torch compile it.
    """

    def __init__(self, config: TrainConfig, device: torch.device, compiled: bool = False) -> None:
        self.device, self._compiled = device, compiled
        self.whole = config
        self.stages = stages(config)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        torch.manual_seed(config.seed)
        self.network: ClickNetwork = build_network(config.network)
        if config.recipe == "published":
            initialise_as_published(self.network)
        self.network = self.network.to(device)
        if config.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedWeights(self.network, config.optim.ema)
        if config.gradient_checkpointing:
            checkpoint_blocks(self.network)
        self.adaptive_iou = AdaptiveIoU()
        self.seen = 0
        self.step = 0
        self._enter(self.stages[0], {})

    @property
    def config(self) -> TrainConfig:
        """The config of the stage that the run is in."""
        return self.stage.config

    def _enter(self, stage: Stage, states: OptimizerStates) -> None:
        self.stage, own = stage, stage.config
        self.optimizer = make_optimizer(self.network, own.optim)
        load_optimizer_state(self.network, self.optimizer, states)
        self.average.decay = own.optim.ema
        dropout = self.network.get_submodule("head.dropout")
        assert isinstance(dropout, nn.Dropout2d)
        dropout.p = own.dropout
        if isinstance(self.network, ICMFormerSwin):
            self.network.set_stochastic_depth(STOCHASTIC_DEPTH if own.recipe == "published" else 0.0)
        forward: nn.Module = IterativePass(self.network, own.serving.threshold, own.points.anywhere, self._compiled)
        unused = bool(getattr(self.network.config, "published_extras", False))  # parameters that no pass touches
        self._pass = (
            DistributedDataParallel(forward, find_unused_parameters=unused) if dist.is_initialized() else forward
        )

    def start_from(self, network: nn.Module) -> None:
        """Takes over another network's weights before the first step."""
        self.network.load_state_dict(network.state_dict())
        self.average.network.load_state_dict(network.state_dict())

    def next_stage(self) -> bool:
        """Enters the stage that the run has come to; False at the end of the run."""
        stage = next((s for s in self.stages if s.start <= self.seen < s.until), None)
        if stage is None or self.seen + stage.config.batch > stage.until:
            later = [s for s in self.stages if s.start > self.seen]
            if not later:
                return False
            stage, self.seen = later[0], later[0].start  # less than a batch is left over
        if stage is not self.stage:
            self._enter(stage, optimizer_state(self.network, self.optimizer))
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": optimizer_state(self.network, self.optimizer),
            "iou_threshold": self.adaptive_iou.threshold,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self.network.load_state_dict(state["network"])
            self.average.network.load_state_dict(state["average"])
        except RuntimeError as error:
            raise WeightsError(f"the run's checkpoint belongs to another network than the config's: {error}") from error
        self.seen, self.step = state["seen"], state["step"]
        self.adaptive_iou.threshold = state["iou_threshold"]
        self.next_stage()
        load_optimizer_state(self.network, self.optimizer, state["optimizer"])

    def train_step(self, batch: Batch, progress: float = 0.0) -> StepResult:
        """One step on this process's share of a batch.

        Args:
            batch: The share.
            progress: Least share of the learning rate's schedule to have behind it, after the warm-up.
        """
        config, stage = self.config, self.stage
        total, seen, warm = stage.until - stage.start, self.seen - stage.start, config.optim.warmup_samples
        rate = learning_rate(config.optim, seen if seen < warm else max(seen, warm + progress * (total - warm)), total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        rounds = int(np.random.default_rng((config.seed, self.step, 2**31)).integers(config.max_rounds + 1))
        torch.manual_seed(_seed(config.seed, self.step, self.rank))  # what dropout draws from
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = batch.split(config.accumulate)
        losses, ious = [], []
        for number, part in enumerate(parts):
            with self._sync(number == len(parts) - 1):
                target = part.target.to(self.device, non_blocking=True)
                with self._autocast():
                    logits, points = self._pass(
                        part.pixels(self.device, config.channels_last), part, rounds, config.seed
                    )
                loss = normalized_focal_loss(logits, target).mean() / len(parts)
                torch.autograd.backward(loss)
            losses.append(loss.detach())
            ious.append(self.adaptive_iou.update(logits.detach(), target) / len(parts))
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(learning, config.optim.clip or math.inf)
        if not torch.isfinite(norm):  # gradients are summed by now: all processes see the same
            raise TrainingError(
                f"the gradient is {norm.item()} after {self.seen:,} samples: lower the learning rate, or train in "
                "fp32; the last checkpoint is from before"
            )
        self.optimizer.step()
        self.step += 1
        self.seen += config.batch
        self.average.update(self.network, self.step)
        totals = torch.stack([torch.stack(losses).sum(), torch.tensor(sum(ious), device=self.device)])
        if dist.is_initialized():
            dist.all_reduce(totals)
            totals /= self.world
        scalars = {"loss": totals[0].item(), "iou": totals[1].item(), "norm": norm.item(), "lr": rate}
        return StepResult(scalars, part, points, logits.detach())

    def _sync(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between processes with a step's last part alone."""
        return nullcontext() if last or not isinstance(self._pass, DistributedDataParallel) else self._pass.no_sync()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def batches(
    samples: SampleSet, stage: Stage, start: int, workers: int, rank: int = 0, world: int = 1
) -> Generator[Batch]:
    """A stage's batches from sample `start` on: this process's share of each."""
    cv2.setNumThreads(1)  # workers and threads of ours share the cores; OpenCV's own would not outlive a fork
    loader: DataLoader[Sample | IcmformerError] = DataLoader(
        samples,
        batch_size=stage.config.batch // world,
        sampler=RunSampler(start, stage.until, stage.config.batch, rank, world),
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        **worker_processes(workers),
        generator=torch.Generator(),  # the loader's own draws must not move the run's random state
    )
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, IcmformerError):
                raise batch
            yield batch
    finally:
        # Workers ignore the signals that would end them, and torch has no public way: one that is left runs for ever.
        if workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def worker_processes(workers: int) -> dict[str, Any]:
    """What a `DataLoader` is told of its workers: on Linux they are forked, and so share what `Decoded` keeps."""
    if not workers:
        return {}
    forked = sys.platform == "linux"
    return {
        "num_workers": workers,
        "multiprocessing_context": "fork" if forked else None,
        "worker_init_fn": _leave_signals_to_the_parent if forked else _start_worker,
    }


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(1)
    _leave_signals_to_the_parent(worker)


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C and batch systems signal every process of a run; the parent ends its workers once it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
