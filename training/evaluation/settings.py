"""What decides an evaluation's figures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError
from icmformer.inference.profiles import Profile, find_profile
from icmformer.inference.prompts import BoxStart
from icmformer.models import meta_network, network_config
from icmformer.serving.client import model_of
from icmformer.weights import Weights, load
from training.evaluation.protocol import ClickOrder


@dataclass(frozen=True)
class EvaluationSettings:
    """The data set, the network, the annotator, and how the two meet.

    Attributes:
        dataset: A key of `training.evaluation.benchmarks.BENCHMARKS`.
        root: The data set's folder, or its shard.
        weights: Name or path of the weights.
        profile: `exact` or `fast`.
        runtime: `auto`, `torch` or `openvino`.
        mode: The network's input, see `target_size`.
        target_iou: Where sessions stop; None makes all clicks.
        order: None evaluates the published protocol at the input that `mode` says; else an engine as an annotation tool
            calls it, at the weights' own input size.
        passes: With unordered clicks: feed all of them together so many times, rather than one by one.
        box: Start each object with its box, turned into a first guess this way: `none`, `ellipse` or `box`, each alone
            or with `+centre`.
        limit: Only so many objects, spread over the set.
        server: Address of a CVAT function to evaluate, with unordered clicks; what is said of the network then counts
            for nothing.
        click_spread: See `JitteredAnnotator`; 0 is the published annotator.
        seed: Of the jittered annotator's randomness.
        refinement_pass: Whether a first click gets a refinement pass; None leaves it to the weights.

    Raises:
        ConfigError: A value that cannot be used, or two that do not go together.
    """

    dataset: str
    root: Path
    weights: str = "starter"
    profile: str = "exact"
    runtime: str = "auto"
    mode: str = "auto"
    target_iou: float | None = 0.9
    order: ClickOrder | None = None
    passes: int | None = None
    box: str | None = None
    limit: int | None = None
    server: str | None = None
    click_spread: float = 0.0
    seed: int = 0
    refinement_pass: bool | None = None

    def __post_init__(self) -> None:
        if self.target_iou is not None and not 0 < self.target_iou <= 1:
            raise ConfigError(f"--target-iou must lie in (0, 1], got {self.target_iou}")
        if any(number is not None and number < 1 for number in (self.passes, self.limit)):
            raise ConfigError("--passes and --limit start at 1")
        if not 0 <= self.click_spread <= 1:
            raise ConfigError(f"--click-spread must lie in [0, 1], got {self.click_spread}")
        if self.passes is not None and self.order != "unordered":
            raise ConfigError("--passes goes with --as-served unordered")
        if (self.order or self.box) and self.mode not in ("auto", "native"):
            raise ConfigError("--as-served and --box use the weights' own input size; leave --mode out")

    def load_weights(self) -> Weights:
        """The weights, with the refinement pass or without it where these settings say so.

        Raises:
            WeightsError: See `icmformer.weights.load`.
        """
        weights = load(self.weights)
        if self.refinement_pass is None:
            return weights
        serving = dataclasses.replace(weights.serving, second_look=self.refinement_pass)
        return dataclasses.replace(weights, serving=serving)

    def make_profile(self) -> Profile:
        """The profile, with what these settings say of unordered clicks and boxes.

        Raises:
            ConfigError: There is no such profile.
        """
        profile = find_profile(self.profile)
        if self.passes is not None:
            profile = dataclasses.replace(profile, unordered_passes=self.passes)
        if self.box is not None:
            guess, _, centre = self.box.partition("+")
            profile = dataclasses.replace(profile, box=BoxStart(guess, centre == "centre"))
        return profile


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        identity: Of the weights as they are served by default; of a server, what it says of its model.
        profile: The profile's name, or the model again.
        size: The network's input, (rows, columns); of a server (0, 0).
    """

    identity: str
    profile: str
    size: tuple[int, int]

    @staticmethod
    def of(settings: EvaluationSettings) -> Subject:
        """Loads the weights, or asks the server.

        Raises:
            WeightsError: See `icmformer.weights.load`.
            ServerError: The server does not answer.
            ConfigError: An unknown zoom mode.
            InputSizeError: A size that the network cannot take.
        """
        if settings.server:
            model = model_of(settings.server) or "unknown"
            return Subject(model, model, (0, 0))
        weights = load(settings.weights)
        mode = "native" if settings.order or settings.box else settings.mode
        size = target_size(mode, settings.dataset, network_config(weights.config).img_size)
        meta_network(weights.config).check_size(*size)
        return Subject(weights.identity, settings.profile, size)


def target_size(mode: str, dataset: str, native: int) -> tuple[int, int]:
    """The network's input for a zoom mode.

    Args:
        mode: `native`, the weights' own input size; `cvpr`, 448, and 672 on DAVIS, as published; `fixedN`, `fixedN,M`;
            `auto`, which is `cvpr` for weights made for 448 and `native` for others.
        dataset: The benchmark.
        native: The weights' input size.

    Raises:
        ConfigError: Another mode.
    """
    if mode == "auto":
        mode = "cvpr" if native == 448 else "native"
    if mode == "native":
        return native, native
    if mode == "cvpr":
        side = 672 if dataset == "DAVIS" else 448
        return side, side
    sides = mode.removeprefix("fixed").split(",")
    if mode.startswith("fixed") and len(sides) <= 2 and all(s.isdigit() and int(s) > 1 for s in sides):
        return int(sides[0]), int(sides[-1])
    raise ConfigError(f"unknown zoom mode {mode!r}; use auto, native, cvpr, fixedN or fixedN,M")


def header(settings: EvaluationSettings, subject: Subject) -> dict[str, Any]:
    """What the file of object results says of its run: all that decides them, what is as always left out.

    The keys stay as they are, so that an evaluation begun with an earlier version can be finished.
    """
    always = {
        "identity": subject.identity,
        "dataset": settings.dataset,
        "root": str(settings.root.resolve()),
        "profile": subject.profile,
        "size": subject.size,
        "target_iou": settings.target_iou,
        "served": "unordered" if settings.server else settings.order,
        "passes": settings.passes,
        "box": settings.box,
        "limit": settings.limit,
    }
    added = {
        "server": (settings.server, None),
        "runtime": (settings.runtime, "auto"),
        "spread": (settings.click_spread, 0.0),
        "seed": (settings.seed, 0),
        "second_look": (settings.refinement_pass, None),
    }
    return always | {key: value for key, (value, usual) in added.items() if value != usual}
