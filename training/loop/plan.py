"""What a training run will be and cost, without training: `--dry-run` of `training.train`."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from icmformer.errors import ConfigError, IcmformerError, UnreadableImageError
from icmformer.models import ClickNetwork, meta_network

from ..data.sources import Images, open_images
from .config import TrainConfig, stages
from .initial_weights import starting_network
from .optimiser import learning_rate, parameter_groups
from .processes import world_size
from .samples import SampleSet
from .unreadable import too_many

OPENED = 50
"""Images that a dry run opens, where it takes no longer than some seconds."""
_NAMED = 20
_BYTES_A_PARAMETER = 4 * 5  # weight, gradient, Adam's two moments, average


def forward_flops(network: ClickNetwork, size: int) -> int:
    """Floating-point operations of one forward pass of one sample; the network is on the meta device."""
    with torch.device("meta"):
        inputs = torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size), torch.zeros(1, 2, 3)
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return int(counter.get_total_flops())


def check(config: TrainConfig, world: int) -> None:
    """Finds now what a later stage of a run on `world` processes would stumble over.

    Raises:
        ConfigError: A batch that the processes cannot share.
        InputSizeError: A size that the network cannot take.
    """
    network = meta_network(config.network)
    if config.samples < config.batch:
        raise ConfigError(f"samples ({config.samples:,}) must be one batch ({config.batch:,}) or more")
    for stage in stages(config):
        batch, parts = stage.config.batch, stage.config.accumulate
        if batch % (world * parts):
            raise ConfigError(f"{world} processes with {parts} parts each cannot share a batch of {batch} evenly")
        network.check_size(stage.config.size, stage.config.size)


def look_into(images: Images, count: int, seconds: float = 10) -> tuple[int, list[UnreadableImageError]]:
    """Opens images, spread over the sources, until there were so many or the time is up.

    Returns:
        How many were opened, and those of them that cannot be read.
    """
    opened, unreadable, until = 0, [], time.monotonic() + seconds
    for index in images.spread(count):
        if time.monotonic() > until:
            break
        opened += 1
        try:
            images.load(index)
        except UnreadableImageError as error:
            unreadable.append(error)
    return opened, unreadable


def plan(config: TrainConfig, data_root: Path, start: str | None, tflops: float) -> tuple[str, IcmformerError | None]:
    """The plan as text, and what is wrong with the data, if anything is; arguments as in `RunOptions`.

    Raises:
        ConfigError: Parameter groups that do not fit, or a batch that the processes cannot share.
        WeightsError: Weights to start from that cannot be used.
    """
    missing: IcmformerError | None = None
    check(config, world_size())
    network = meta_network(config.network)
    count = sum(p.numel() for p in network.parameters())
    try:
        images = open_images(data_root, config.data.shards, config.data.permissive)
        SampleSet(images, config)
        sets = ", ".join(f"{number:,} of {name}" for name, number in Counter(r.set for r in images.records).items())
        data = f"{len(images.records):,} images: {sets}"
        looked, unreadable = look_into(images, OPENED)
        opened = f"{looked} images, spread over all sources"
        if known := [*images.unreadable, *unreadable]:
            every = len(images.records) + len(images.unreadable)
            missing = too_many(len(known), every, config.data.unreadable, known[0])
            opened = "\n          ".join([f"{opened}; {len(known):,} cannot be read:", *map(str, known[:_NAMED])])
            opened += "\n          ..." if len(known) > _NAMED else ""
        opened = "\n          ".join([opened, *images.remarks])
    except ConfigError as error:  # what a run will cost can be told before there is anything to train on
        missing = error
        data, opened = f"NOT USABLE: {error}", "none"
    name = config.network if isinstance(config.network, str) else config.network.get("family")
    memory = count * _BYTES_A_PARAMETER / 2**30
    lines = [
        f"network   {name}, {count / 1e6:.1f} M parameters",
        f"recipe    {config.recipe}",
        f"memory    {memory:.1f} GiB for weights, gradients, Adam's moments and average, beside the activations",
        f"data      {data}",
        f"opened    {opened}",
    ]
    if start is not None:
        lines.append(starting_network(config.network, start, config.recipe)[1])
    total = 0.0
    for number, stage in enumerate(stages(config), 1):
        own, samples = stage.config, stage.until - stage.start
        groups = parameter_groups(network, own.optim)
        learning = sum(p.numel() for group in groups for p in group["params"])
        # forward and backward pass are three forward ones; checkpointed blocks compute theirs again
        flops = forward_flops(network, own.size) * (3 + own.gradient_checkpointing + own.max_rounds / 2)
        total += flops * samples
        places = sorted({0, own.optim.warmup_samples, samples // 2, samples - 1})
        rates = ", ".join(f"{learning_rate(own.optim, p, samples):.2g} at {stage.start + p:,}" for p in places)
        again = ", with gradient checkpointing" if own.gradient_checkpointing else ""
        left = samples % own.batch
        parts = f" in {own.accumulate} parts" if own.accumulate > 1 else ""
        lines += [
            f"stage {number}   {samples:,} samples at {own.size} x {own.size}, {own.precision}{again}",
            f"          {samples // own.batch:,} steps of {own.batch}{parts}"
            + (f"; {left} samples do not fill one and are left out" if left else ""),
            f"          {learning / 1e6:.1f} M parameters learn, in {len(groups)} groups",
            f"          learning rate {rates}",
            f"          {flops / 1e12:.3f} TFLOP a sample: forward, backward, {own.max_rounds / 2:g} rounds on average",
        ]
    hours = total / (tflops * 1e12) / 3600
    lines.append(f"cost      {total / 1e15:,.0f} PFLOP: {hours:,.0f} GPU-hours at {tflops:g} TFLOP/s sustained")
    return "\n".join(lines), missing
