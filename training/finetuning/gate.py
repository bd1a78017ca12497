"""The gate: whether fine-tuned weights need fewer clicks on the held-out photos than those they come from."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from icmformer.disk import writing
from icmformer.errors import ConfigError, TrainingError
from icmformer.settings import Settings
from icmformer.weights import is_store, load

from ..evaluation.noc import MAX_CLICKS, object_noc
from ..evaluation.object_results import read_object_results
from ..evaluation.runner import evaluate
from ..evaluation.settings import EvaluationSettings
from .settings import FinetuneSettings
from .split import Part, Split

Results = Mapping[str, Any]
"""What an evaluation found, as in results.json."""

LEAST_GROUPS = 10
"""Independent photos (or groups of them) under which nothing is promoted: with fewer, the interval misses the true
difference too often (see `difference_interval`)."""
_LEAST_TO_ESTIMATE = 5
"""Independent photos under which nothing can be said of how many would do."""
_CONFIDENCE = 0.95
_RESAMPLES = 9999
_SPARE = 1.2
"""Factor on the estimate of how many photos are needed, which is itself one from few photos."""


@dataclass(frozen=True)
class Comparison:
    """Clicks to 90% IoU of the same objects, before and after.

    Attributes:
        before: Mean over objects.
        after: The same.
        difference: After less before: negative where fewer are needed.
        low: Lower end of the 95% interval of the difference.
        high: Upper end.
        objects: How many.
        photos: On which they are.
        groups: Of photos; photos of one group count as one when chance is reckoned with.
        verdict: `fewer` or `more` only where the interval excludes zero, and rests on `LEAST_GROUPS`.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    objects: int
    photos: int
    groups: int
    verdict: Literal["fewer", "more", "not told apart"]

    @property
    def promotes(self) -> bool:
        """Whether the new weights replace those that they come from."""
        return self.verdict == "fewer"

    @property
    def told(self) -> str:
        """The interval and what it rests on, in a line."""
        groups = f" in {_counted(self.groups, 'group')}" if self.groups < self.photos else ""
        return (
            f"{self.difference:+.2f} clicks an object (95% interval {self.low:+.2f} to {self.high:+.2f}, "
            f"from {_counted(self.objects, 'object')} on {_counted(self.photos, 'photo')}{groups})"
        )

    @property
    def needed_photos(self) -> int | None:
        """About how many held-out photos would show the gain, if it stays as it is; None where there is no gain.

        An interval's width falls with the square root of their number.
        """
        if self.difference >= 0:
            return None
        reach = (self.high - self.difference) / -self.difference
        groups = max(math.ceil(_SPARE * self.groups * reach**2), LEAST_GROUPS)
        return math.ceil(groups * self.photos / self.groups)

    @property
    def advice(self) -> str:
        """What to do where the verdict is not `fewer`; empty where it is."""
        if self.promotes:
            return ""
        if self.verdict == "more" or self.difference >= 0:
            return (
                "The training has not helped on these photos: more photos, more samples or a lower learning rate may; "
                "look at the pictures for annotations that are off."
            )
        if self.groups < _LEAST_TO_ESTIMATE:
            return (
                f"Nothing is promoted on fewer than {LEAST_GROUPS} independent photos, and these are {self.groups}: "
                "annotate more, hold more out with --held-out, or evaluate more objects with --objects."
            )
        needed = self.needed_photos or 0
        few = (
            f"; nothing is promoted on fewer than {LEAST_GROUPS} independent ones" if self.groups < LEAST_GROUPS else ""
        )
        return (
            f"The gain may be chance. If it stays as it is, about {needed} held-out photos would show it (these are "
            f"{self.photos}{few}): annotate more, or hold more out with --held-out, and let --objects be "
            f"{math.ceil(needed * self.objects / self.photos)} at least."
        )

    @property
    def reason(self) -> str:
        """Why the new weights are not promoted, and what to do; empty where they are."""
        few = f"Nothing is promoted on fewer than {LEAST_GROUPS} independent photos, and these are {self.groups}"
        said = self.promotes or self.groups >= LEAST_GROUPS or "nothing is promoted on" in self.advice.lower()
        return self.advice if said else f"{few}. {self.advice}"

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def compare(before: Mapping[str, int], after: Mapping[str, int], split: Split) -> Comparison:
    """Compares clicks to 90% IoU by object, as evaluations name them.

    Args:
        before: Of the weights that the run began with.
        after: Of the new ones.
        split: Tells the photos of the objects.

    Raises:
        TrainingError: They are not of the same objects, or of none.
    """
    names = sorted(before.keys() & after.keys())
    if not names or before.keys() != after.keys():
        raise TrainingError(
            f"the evaluations before and after are not of the same objects ({len(names)} of both, "
            f"{len(before) - len(names)} of the old weights alone, {len(after) - len(names)} of the new ones alone): "
            "delete the folders before/ and after/ of the run, and run the same command again"
        )
    old, new = (np.array([clicks[name] for name in names], np.float64) for clicks in (before, after))
    photos = [split.of_object(name) for name in names]
    groups = np.array([photo.group for photo in photos])
    low, high = difference_interval(new - old, groups)
    count = len(set(groups.tolist()))
    enough = count >= LEAST_GROUPS
    verdict: Literal["fewer", "more", "not told apart"] = "not told apart"
    if enough and high < 0:
        verdict = "fewer"
    elif enough and low > 0:
        verdict = "more"
    return Comparison(
        float(old.mean()),
        float(new.mean()),
        float((new - old).mean()),
        low,
        high,
        len(names),
        len({photo.number for photo in photos}),
        count,
        verdict,
    )


def difference_interval(differences: NDArray[np.float64], groups: NDArray[Any]) -> tuple[float, float]:
    """The 95% interval of the mean of differences by a bootstrap over groups.

    Whole groups are drawn, since objects of one photo and photos of one video tell less than as many independent ones
    (cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Percentile
    intervals of few draws are too narrow, as much as normal quantiles are against Student's t and the standard
    deviation of a sample against that of what it is from; their ends are taken further out by just that: the expanded
    percentile interval of Hesterberg (What Teachers Should Know about the Bootstrap, The American Statistician 69,
    2015, section 4.3). In simulations with differences like real ones (mostly 0, a few of 15), the interval then holds
    the true difference in 92 to 96% of cases from ten groups on, in 88 to 94% with five. Weights that are no better in
    truth come out as better in 3 to 4.5%, in 4 to 6% where their losses are rare and large, and in 5 to 8% if all of
    the large differences are losses.

    Args:
        differences: (N,) of each object.
        groups: (N,) what each belongs to.

    Returns:
        Lower and upper end; everything that is possible where there is only one group.
    """
    _, places = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(places, differences), np.bincount(places).astype(np.float64)
    number = len(sums)
    if number < 2:
        return float(1 - MAX_CLICKS), float(MAX_CLICKS - 1)
    tail = (1 - _CONFIDENCE) / 2
    expanded = stats.norm.cdf(math.sqrt(number / (number - 1)) * stats.t.ppf(tail, number - 1))
    interval = stats.bootstrap(
        (sums, counts),
        _mean,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=999,
        confidence_level=1 - 2 * max(float(expanded), 1e-9),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean difference over objects of resampled groups."""
    mean: NDArray[np.float64] = sums.sum(axis) / counts.sum(axis)
    return mean


def measure(
    weights: str,
    what: str,
    settings: FinetuneSettings,
    part: Part,
    out: Path,
    tell: Callable[[int, int], None] | None = None,
) -> Results:
    """Evaluates weights on a part, with all clicks, into the folder `out`.

    `what` is printed before, and `tell` called after each object with how many are done and how many there are.
    """
    print(f"{what}: evaluating on {settings.data / part}", flush=True)
    evaluation = EvaluationSettings(
        dataset="label-maps",
        root=settings.data / part,
        weights=weights,
        profile=settings.profile,
        mode="native",
        target_iou=None,
        limit=settings.objects,
    )
    return evaluate(evaluation, out, settings.devices, settings.jobs, tell=tell)


def noc90(results: Results) -> float:
    """Mean number of clicks to 90% IoU."""
    return float(results["noc"]["90"])


def object_clicks(folder: Path) -> dict[str, int]:
    """Clicks to 90% IoU of the objects of an evaluation, by name."""
    _, results = read_object_results(folder)
    return {name: object_noc(result["ious"], 0.9) for name, result in results.items() if "ious" in result}


def doubt(split: Split, settings: FinetuneSettings) -> str:
    """Why nothing can be promoted, known before the training; empty where something can."""
    groups = split.groups("held_out")
    if min(groups, settings.objects) >= LEAST_GROUPS:
        return ""
    if groups >= LEAST_GROUPS:
        return f"nothing is promoted on fewer than {LEAST_GROUPS} photos: let --objects be more than {settings.objects}"
    every = len({photo.group for photo in split.photos})
    share = math.ceil(100 * LEAST_GROUPS / every) / 100
    what = "photos" if every == len(split.photos) else "independent photos (or groups of them)"
    enough = f"hold out {LEAST_GROUPS} with --held-out {share:g}" if every >= 2 * LEAST_GROUPS else "annotate more"
    return f"{groups} {what} are held out, and on fewer than {LEAST_GROUPS} nothing is promoted: {enough}"


def install(weights: Path) -> str:
    """Copies weights into the cache folder; the name by which they are found there."""
    name = load(weights).name
    home = Settings.from_environment().cache_dir / "weights"
    if is_store(home / name):
        raise ConfigError(f"{home / name} is a store of versions: give --promote {name} instead of --install")
    part = home / f".{name}.part"
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
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
