"""The gate: whether fine-tuned weights need fewer clicks on the held-out images than those they come from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Candidate:
    """Fine-tuned weights and what they came to.

    Attributes:
        weights: Their folder.
        min_crop_size: See `ServingDefaults`; the one of `tried` that needs the fewest clicks.
        tried: Least crop in pixels -> results on the held-out part.
    """

    weights: Path
    min_crop_size: int
    tried: Mapping[int, Results]

    @property
    def results(self) -> Results:
        """With the best least crop."""
        return self.tried[self.min_crop_size]

    def beats(self, before: Results) -> bool:
        """Whether it needs fewer clicks to 90% IoU."""
        return noc90(self.results) < noc90(before)


def noc90(results: Results) -> float:
    """Mean number of clicks to 90% IoU."""
    return float(results["noc"]["90"])


def measure(weights: str, what: str, settings: FinetuneSettings, out: Path) -> Results:
    """Evaluates weights on the held-out part, with all clicks.

    Args:
        weights: Name or path.
        what: To be told.
        settings: Of the run.
        out: The evaluation's folder.
    """
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


def best_candidate(make: Callable[[int], Path], crops: list[int], settings: FinetuneSettings) -> Candidate:
    """Measures the fine-tuned weights with each least crop, and makes them with the best one.

    Args:
        make: Writes the weights with a least crop; returns their folder.
        crops: In pixels; of equals the first is taken.
        settings: Of the run.
    """
    tried: dict[int, Results] = {}
    for crop in crops:
        what = f"after, zooming in to {crop} pixels"
        tried[crop] = measure(str(make(crop)), what, settings, settings.out / f"after-{crop}")
    best = min(crops, key=lambda crop: noc90(tried[crop]))
    return Candidate(make(best), best, tried)


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


def replace_folder(source: Path, target: Path) -> None:
    """Puts a folder in another's place; whoever has opened the old one keeps it."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)
