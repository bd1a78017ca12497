"""What decides an evaluation's figures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError
from icmformer.inference.profiles import Profile, find_arithmetic, find_device, find_profile, find_runtime
from icmformer.inference.prompts import BoxStart
from icmformer.models import meta_network, network_config
from icmformer.serving.client import model_of
from icmformer.settings import Settings
from icmformer.weights import CloseUp, ServingDefaults, Weights, load

from .protocol import ClickOrder


@dataclass(frozen=True)
class EvaluationSettings:
    """The data set, the network, the annotator, and how the two meet: the options of `icmformer evaluate`.

    Attributes:
        target_iou: Where sessions stop; None makes all clicks.
        order: None evaluates the published protocol at the input that `mode` says; else an engine as an annotation tool
            calls it, at the weights' own input size.
        refinement_pass: Whether a first click gets a refinement pass; None leaves it to the weights.
        close_up: `CLICK,PIXELS,RATIO`, the values of a `CloseUp`, or `no` for none; None leaves it to the weights.

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
    box: str | None = None
    limit: int | None = None
    server: str | None = None
    click_spread: float = 0.0
    seed: int = 0
    refinement_pass: bool | None = None
    close_up: str | None = None

    def __post_init__(self) -> None:
        if self.target_iou is not None and not 0 < self.target_iou <= 1:
            raise ConfigError(f"--target-iou must lie in (0, 1], got {self.target_iou}")
        if not 0 <= self.click_spread <= 1:
            raise ConfigError(f"--click-spread must lie in [0, 1], got {self.click_spread}")
        if (self.order or self.box) and self.mode not in ("auto", "native"):
            raise ConfigError("--as-served and --box use the weights' own input size; leave --mode out")
        _close_up(self.close_up)

    def load_weights(self) -> Weights:
        """The weights, with the refinement pass and the close-up that these settings name."""
        weights = load(self.weights)
        return dataclasses.replace(weights, serving=overridden(weights.serving, self.refinement_pass, self.close_up))

    def make_profile(self) -> Profile:
        """The profile, with what these settings say of boxes."""
        profile = find_profile(self.profile)
        if self.box is None:
            return profile
        guess, _, centre = self.box.partition("+")
        return dataclasses.replace(profile, box=BoxStart(guess, centre == "centre"))

    def header(self) -> dict[str, Any]:
        """What the file of object results says of its run: all that decides them, what is as always left out.

        Raises:
            IcmformerError: No such weights, a server that does not answer, or an input that the network cannot take.
        """
        if self.server:
            identity = profile = model_of(self.server) or "unknown"
            size, precision, ranges = (0, 0), "auto", None
        else:
            weights = load(self.weights)
            identity, profile = weights.identity, self.profile
            precision, ranges = Settings.from_environment().precision, _ranges_in_use(weights, self)
            mode = "native" if self.order or self.box else self.mode
            size = target_size(mode, self.dataset, network_config(weights.config).img_size)
            meta_network(weights.config).check_size(*size)
        always = {
            "identity": identity,
            "dataset": self.dataset,
            "root": str(self.root.resolve()),
            "profile": profile,
            "size": size,
            "target_iou": self.target_iou,
            "served": "unordered" if self.server else self.order,
            "box": self.box,
            "limit": self.limit,
        }
        usual = {"server": None, "runtime": "auto", "spread": 0.0, "seed": 0, "refinement_pass": None, "close_up": None}
        usual |= {"precision": "auto", "int8_ranges": None}
        asked = self.refinement_pass, self.close_up
        now = self.server, self.runtime, self.click_spread, self.seed, *asked, precision, ranges
        return always | {key: value for key, value in zip(usual, now, strict=True) if value != usual[key]}


def overridden(serving: ServingDefaults, refinement_pass: bool | None, close_up: str | None) -> ServingDefaults:
    """Serving defaults with what an evaluation says otherwise, as `EvaluationSettings` has it.

    Raises:
        ConfigError: A close-up that cannot be used.
    """
    if refinement_pass is not None:
        serving = dataclasses.replace(serving, refinement_pass=refinement_pass)
    if close_up is not None:
        serving = dataclasses.replace(serving, close_up=_close_up(close_up))
    return serving


def _close_up(text: str | None) -> CloseUp | None:
    if text is None or text == "no":
        return None
    try:
        click, pixels, ratio = text.split(",")
        values = int(click), int(pixels), float(ratio)
    except ValueError:
        raise ConfigError(f"--close-up is CLICK,PIXELS,RATIO, such as 3,60,1.25, or no; not {text!r}") from None
    return CloseUp(*values)


def _ranges_in_use(weights: Weights, settings: EvaluationSettings) -> str | None:
    """What names the ranges that int8 goes by, where a CPU would compute in it."""
    device, ranges = find_device("cpu"), weights.int8
    runtime, asked = find_runtime(settings.runtime, device), Settings.from_environment().precision
    arithmetic = find_arithmetic(asked, find_profile(settings.profile), device, runtime, ranges is not None)
    return ranges.digest if ranges and arithmetic == "int8" else None


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
