"""The gate: whether fine-tuned weights need fewer clicks on the held-out images than those they come from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmformer.settings import Settings
from icmformer.weights import load
from training.evaluation.runner import evaluate
from training.evaluation.settings import EvaluationSettings
from training.finetuning.settings import FinetuneSettings
from training.finetuning.split import Split

Results = Mapping[str, Any]
"""What an evaluation found, as in results.json."""

_FEW = 20  # objects; the gain on fewer says little


def measure(weights: str, what: str, settings: FinetuneSettings, out: Path) -> Results:
    """Evaluates weights on the held-out part, with all clicks, into the folder `out`; `what` is printed before."""
    print(f"{what}: evaluating on the held-out part", flush=True)
    evaluation = EvaluationSettings(
        dataset="label-maps",
        root=settings.data / "held_out",
        weights=weights,
        profile=settings.profile,
        mode="native",
        target_iou=None,
        limit=settings.objects,
    )
    return evaluate(evaluation, out, settings.devices, settings.jobs)


def noc90(results: Results) -> float:
    """Mean number of clicks to 90% IoU."""
    return float(results["noc"]["90"])


def promotes(before: Results, after: Results) -> bool:
    """The decision: whether the fine-tuned weights need fewer clicks than those that they come from."""
    return noc90(after) < noc90(before)


def doubt(split: Split, settings: FinetuneSettings) -> str:
    """Why the verdict may be chance; empty where it is not."""
    evaluated = min(split.held_objects, settings.objects)
    if evaluated >= _FEW:
        return ""
    return (
        f"only {evaluated} objects of {split.held_images} photos tell whether it got better, which may be chance; hold "
        "more photos out with --held-out, or evaluate on more with --objects"
    )


def install(weights: Path) -> str:
    """Copies weights into the cache folder; the name by which they are found there."""
    name = load(weights).name
    home = Settings.from_environment().cache_dir / "weights"
    home.mkdir(parents=True, exist_ok=True)
    part = home / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(weights, part)
    replace_folder(part, home / name)
    return name


def replace_folder(source: Path, target: Path) -> Path:
    """Puts a folder in another's place, and returns that; whoever has opened the old one keeps it."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target
