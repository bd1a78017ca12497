"""A fine-tuning run: from a team's export to weights that are promoted or not, and a report."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from icmformer.inference.profiles import find_device
from icmformer.models import network_config
from icmformer.weights import Weights, load, save

from ..loop.checkpoints import CHECKPOINT, read_checkpoint
from ..loop.config import load_config
from ..loop.run import RunOptions, train
from . import gate
from .gate import noc90
from .prepared import Prepared, prepared
from .progress import Progress, alone, told
from .promotion import Promotion, bound, promote
from .report import write_report
from .settings import FinetuneSettings
from .split import Part, Split

LEAST_SHARE = 0.0001
"""Share of the input a target covers at least: a team's objects are trained on however small they are."""


def finetune(settings: FinetuneSettings) -> bool:
    """Fine-tunes, judges and reports, going on where the run's folder says that it stopped.

    Args:
        settings: What decides the run. Its folder gets `weights` where the new ones are promoted, else `candidate`,
            and `gate.json` and `report.html` either way; a store to promote to gets promoted ones as a version.

    Returns:
        Whether the new weights were promoted.

    Raises:
        ConfigError: The folder is another run's, or an export that cannot be used.
        WeightsError: See `icmformer.weights.load`.
        TrainingError: The training or the comparison cannot go on.
        KeyboardInterrupt: The training was stopped; the same call goes on.
    """
    settings = bound(settings)
    weights = load(settings.weights)
    devices = [str(find_device(name)) for name in settings.devices]
    lr = settings.lr or (3e-4 if _is_hybrid(weights) else 5e-5)
    settings = dataclasses.replace(settings, devices=devices, lr=lr)
    with alone(settings.folder()):
        settings.claim(weights)
        with told(settings.out) as progress:
            return _finetuned(settings, weights, progress)


def _finetuned(settings: FinetuneSettings, weights: Weights, progress: Progress) -> bool:
    """`finetune`, in a folder that is this run's."""
    progress.stage("reading")
    data = prepared(settings)
    split = data.split
    _tell(data, settings)
    progress.stage("evaluating before")
    before = gate.measure(settings.weights, "before", settings, "held_out", settings.out / "before", progress.at)
    config = training_config(weights, settings)
    progress.stage("training", settings.samples)
    state = _trained(settings, config, progress)
    crops = sorted({split.min_crop_size, weights.serving.min_crop_size}, reverse=True)
    tried: dict[int, float] = {}
    if split.count("choosing") and len(crops) > 1:
        progress.stage("choosing the zoom")
        for crop in crops:
            folder = str(_save(settings, config, weights, split, state, crop))
            out = settings.out / f"choosing-{crop}"
            tried[crop] = noc90(
                gate.measure(folder, f"zooming in to {crop} pixels", settings, "choosing", out, progress.at)
            )
    best = min(tried, key=lambda crop: tried[crop], default=weights.serving.min_crop_size)
    made = _save(settings, config, weights, split, state, best)
    progress.stage("evaluating after")
    after = gate.measure(str(made), "after", settings, "held_out", settings.out / "after", progress.at)
    clicks = {name: gate.object_clicks(settings.out / name) for name in ("before", "after")}
    comparison = gate.compare(clicks["before"], clicks["after"], split)
    comparison.write(settings.out / "gate.json")
    if comparison.promotes:
        made = gate.replace_folder(made, settings.out / "weights")
    promotion = None
    if comparison.promotes and settings.promote:
        progress.stage("promoting")
        promotion = promote(settings, weights, made)
    switch = promotion.told if promotion else ""
    facts = _facts(settings, weights, split, tried, best)
    report = write_report(settings, facts, data, comparison, before, after, clicks, made, switch)
    _tell_end(settings, comparison, made, report, switch)
    _end(progress, comparison, promotion)
    return comparison.promotes


def _tell(data: Prepared, settings: FinetuneSettings) -> None:
    """Says what there is to train and judge on."""
    split = data.split
    told = f"{split.count('train')} photos with {split.objects('train')} objects to train on"
    if split.count("choosing"):
        told += f", {split.count('choosing')} with {split.objects('choosing')} to choose the zoom on"
    print(f"{told}, {split.count('held_out')} with {split.objects('held_out')} held out", flush=True)
    for line in data.told:
        print(line)
    doubt = gate.doubt(split, settings)
    if doubt:
        print(f"warning: {doubt}", file=sys.stderr)


def _tell_end(settings: FinetuneSettings, comparison: gate.Comparison, made: Path, report: Path, switch: str) -> None:
    """Says how it went."""
    before, after = comparison.before, comparison.after
    print(f"\nclicks to 90% IoU: {before:.2f} before, {after:.2f} after ({100 * (after / before - 1):+.0f}%)")
    print(f"difference: {comparison.told}")
    if comparison.promotes:
        print(f"promoted: {made}")
        if switch:
            print(switch)
        if settings.install:
            print(f"servers and commands find them by the name {gate.install(made)}")
    else:
        print(f"NOT promoted, not shown to be better than {settings.weights}; kept as {made}")
        print(comparison.reason)
    print(f"report: {report}")


def _end(progress: Progress, comparison: gate.Comparison, promotion: Promotion | None) -> None:
    """Writes down how it went."""
    clicks = {"clicks": {"before": comparison.before, "after": comparison.after}, "difference": comparison.told}
    version, reason = (promotion.version, promotion.told) if promotion else (None, comparison.reason)
    promoted = comparison.promotes and (promotion is None or promotion.switched)
    progress.end("promoted" if promoted else "not promoted", reason=reason, version=version, **clicks)


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


def _trained(settings: FinetuneSettings, config: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
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
        save_minutes=0.5,
        tell=progress.at,
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
            "annotations": settings.source,
            "photos": split.count("train"),
            "objects": split.objects("train"),
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


def _facts(
    settings: FinetuneSettings, weights: Weights, split: Split, tried: Mapping[int, float], best: int
) -> dict[str, str]:
    """What was done, for the report."""
    facts = {
        "annotations": settings.source,
        "began with": settings.weights,
        "trained on": f"{_photos(split, 'train')}, {settings.samples:,} samples",
        "zoom chosen on": _photos(split, "choosing") if tried else "",
        "held out": f"{_photos(split, 'held_out')}, at most {settings.objects} objects evaluated",
        "kept on one side": f"{settings.group_by}: {len({photo.group for photo in split.photos})} groups",
        "learning rate, batch": f"{settings.lr:g}, {settings.batch}",
        "profile of the evaluation": settings.profile,
        "photos' long side": f"{split.long_side} pixels (median)",
        **{f"clicks zooming in to {crop} pixels": f"{clicks:.2f}" for crop, clicks in tried.items()},
        "zooms in to": dataclasses.replace(weights.serving, min_crop_size=best).zoom,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _photos(split: Split, part: Part) -> str:
    return f"{split.count(part)} photos with {split.objects(part)} objects"
