"""A fine-tuning run: from a team's export to weights that are promoted or not, and a report."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from icmformer.errors import ConfigError
from icmformer.inference.profiles import find_device
from icmformer.models import network_config
from icmformer.weights import Weights, load, save
from training.finetuning import gate
from training.finetuning.gate import Results, noc90
from training.finetuning.readers.detect import read_annotations
from training.finetuning.report import write_report
from training.finetuning.settings import FinetuneSettings
from training.finetuning.split import Split, prepare
from training.loop.checkpoints import CHECKPOINT, read_checkpoint
from training.loop.config import load_config
from training.loop.run import RunOptions, train

LEAST_SHARE = 0.0001
"""Share of the input a target covers at least: a team's objects are trained on however small they are."""


def finetune(settings: FinetuneSettings) -> bool:
    """Fine-tunes, judges and reports, going on where the run's folder says that it stopped.

    Args:
        settings: What decides the run. Its folder gets `weights` where the new ones are promoted, else `candidate`,
            and `report.html` either way.

    Returns:
        Whether the new weights were promoted.

    Raises:
        ConfigError: The folder is another run's, an export that cannot be used, or a part without objects.
        WeightsError: See `icmformer.weights.load`.
        KeyboardInterrupt: The training was stopped; the same call goes on.
    """
    weights = load(settings.weights)
    devices = [str(find_device(name)) for name in settings.devices]
    lr = settings.lr or (3e-4 if _is_hybrid(weights) else 5e-5)
    settings = dataclasses.replace(settings, devices=devices, lr=lr)
    settings.claim(weights)
    split = _prepared(settings)
    print(
        f"{split.train_images} photos with {split.train_objects} objects to train on, {split.held_images} with "
        f"{split.held_objects} held out",
        flush=True,
    )
    if split.skipped:
        print(f"skipped, without an outline: {split.skipped}")
    if not split.train_objects or not split.held_objects:
        raise ConfigError("one of the two parts has no object; annotate more photos, or change --held-out")
    doubt = gate.doubt(split, settings)
    if doubt:
        print(f"warning: {doubt}", file=sys.stderr)
    before = gate.measure(settings.weights, "before", settings, settings.out / "before")
    config = training_config(weights, settings)
    state = _trained(settings, config)
    crops = sorted({split.min_crop_size, weights.serving.min_crop_size}, reverse=True)
    tried: dict[int, Results] = {}
    for crop in crops:
        folder = _save(settings, config, weights, split, state, crop)
        what = f"after, zooming in to {crop} pixels"
        tried[crop] = gate.measure(str(folder), what, settings, settings.out / f"after-{crop}")
    best = min(crops, key=lambda crop: noc90(tried[crop]))
    made, after = _save(settings, config, weights, split, state, best), tried[best]
    promoted = gate.promotes(before, after)
    if promoted:
        made = gate.replace_folder(made, settings.out / "weights")
    facts = _facts(settings, split, tried, doubt)
    report = write_report(settings, facts, before, after, settings.out / f"after-{best}", promoted, made)
    change = 100 * (noc90(after) / noc90(before) - 1)
    print(f"\nclicks to 90% IoU: {noc90(before):.2f} before, {noc90(after):.2f} after ({change:+.0f}%)")
    print(f"promoted: {made}" if promoted else f"NOT promoted, no better than {settings.weights}; kept as {made}")
    if promoted and settings.install:
        print(f"servers and commands find them by the name {gate.install(made)}")
    print(f"report: {report}")
    return promoted


def training_config(weights: Weights, settings: FinetuneSettings) -> dict[str, Any]:
    """A short and warm training, gentle with what is known already, with few images seen in many ways."""
    hybrid = _is_hybrid(weights)
    return {
        "network": weights.config,
        "size": network_config(weights.config).img_size,
        "batch": settings.batch,
        "samples": settings.samples,
        "seed": settings.seed,
        "channels_last": hybrid,
        "precision": "bf16",
        "data": {"shards": ["train"], "balance": "objects", "least": 0.0},
        "augment": {
            "least": LEAST_SHARE,
            "turns": True,
            "tilt": 15.0,
            "resize": [0.75, 2.0],
            "brightness": [-0.3, 0.3],
        },
        "optim": {
            "lr": settings.lr,
            "weight_decay": 0.02,
            "warmup_samples": settings.samples // 20,
            "schedule": "cosine",
            "ema": 0.99,
            "lr_factors": {"backbone.trunk.": 0.2} if hybrid else {},
        },
        "points": {"gamma": 0.35, "centre_first": 0.5, "max_points": 12},
        "pictures": max(settings.samples // 4, 1),
    }


def _is_hybrid(weights: Weights) -> bool:
    return "hybrid" in str(weights.config.get("family"))


def _prepared(settings: FinetuneSettings) -> Split:
    """The two parts, made once."""
    mark = settings.data / "parts.json"
    if mark.exists():
        return Split(**json.loads(mark.read_text()))
    shutil.rmtree(settings.data, ignore_errors=True)
    print(f"reading {settings.annotations}", flush=True)
    images = read_annotations(settings.annotations, settings.images, settings.out / "unpacked")
    split = prepare(images, settings.data, settings.held_out)
    mark.write_text(json.dumps(dataclasses.asdict(split)))
    return split


def _trained(settings: FinetuneSettings, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state at the end of the training.

    Raises:
        KeyboardInterrupt: It was stopped before.
    """
    file, run = settings.out / "config.yaml", settings.out / "run"
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    options = RunOptions(
        data_root=settings.data,
        out=run,
        start=settings.weights,
        device=settings.devices[0],
        threads=settings.threads,
        workers=settings.workers,
        save_minutes=2,
    )
    if not train(load_config(file), options).finished:
        raise KeyboardInterrupt
    state: dict[str, Any] = read_checkpoint(run / CHECKPOINT)["state"]
    return state


def _save(
    settings: FinetuneSettings,
    config: Mapping[str, Any],
    weights: Weights,
    split: Split,
    state: Mapping[str, Any],
    crop: int,
) -> Path:
    """Writes the trained weights in the native form, with a least crop to zoom in to."""
    about = {
        "fine_tuning": {
            "from": weights.name,
            "from_sha256": weights.sha256,
            "annotations": settings.annotations.name,
            "photos": split.train_images,
            "objects": split.train_objects,
            "samples": state["seen"],
            "batch": settings.batch,
            "lr": settings.lr,
            "seed": settings.seed,
        },
        "parent": dict(weights.about),
    }
    folder = settings.out / "candidate"
    shutil.rmtree(folder, ignore_errors=True)
    name = settings.name or settings.out.name
    serving = dataclasses.replace(weights.serving, min_crop_size=crop)
    return save(folder, config["network"], state["average"], name, about, "fp16", serving)


def _facts(settings: FinetuneSettings, split: Split, tried: Mapping[int, Results], doubt: str) -> dict[str, str]:
    """What was done, for the report."""
    facts = {
        "annotations": settings.annotations.name,
        "began with": settings.weights,
        "trained on": f"{split.train_images} photos, {split.train_objects} objects, {settings.samples:,} samples",
        "held out": f"{split.held_images} photos, {split.held_objects} objects, at most {settings.objects} evaluated",
        "learning rate, batch": f"{settings.lr:g}, {settings.batch}",
        "profile of the evaluation": settings.profile,
        "skipped, without an outline": split.skipped,
        "photos' long side": f"{split.long_side} pixels (median)",
        **{f"clicks zooming in to {crop} pixels": f"{noc90(results):.2f}" for crop, results in tried.items()},
        "mind": doubt,
    }
    return {name: fact for name, fact in facts.items() if fact}
