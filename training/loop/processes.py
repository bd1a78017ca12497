"""Several processes, as torchrun starts them; alone without it."""

from __future__ import annotations

import gc
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process among all: its rank and their number."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any process says yes; all get the same answer."""
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        """Everyone's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


def world_size() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Joins the group that torchrun's environment names, be it of one; NCCL on GPUs, gloo elsewhere."""
    if world_size() == 1 and not dist.is_torchelastic_launched():
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # DistributedDataParallel would import this while the group exists, holding it for ever (torch 2.13).
    importlib.import_module("torch._dynamo")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # who leaves early breaks the connections of those who still use them
    finally:
        dist.destroy_process_group()
        # Whoever still holds the group (a DistributedDataParallel model does, in cycles) keeps its threads running, and
        # one that releases a tensor while the interpreter shuts down ends the process with SIGABRT.
        gc.collect()


@contextmanager
def on_signals(action: Callable[[int, object], None]) -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM do this and nothing else."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, action) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
