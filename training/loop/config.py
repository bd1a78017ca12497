"""Training configs: YAML files checked against frozen dataclasses."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from icmformer.errors import ConfigError
from icmformer.models import network_config
from icmformer.weights.serving_defaults import ServingDefaults

from .augmentation import AugmentConfig
from .clicks import PointsConfig

_WITHOUT_POINT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # 1e-4, which YAML takes for a text


def _require(fits: bool, text: str) -> None:
    if not fits:
        raise ConfigError(text)


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Attributes:
        shards: Zip shards (`*.zip`) and folders of `images/` and `masks/`, relative to `--data-root`.
        set_weights: How much more often images of a set are drawn than others (1 where not named).
        merge: Probability of merging two objects of an image into one target.
        stuff: Share of the samples in which stuff (sky, grass) counts as an object, where a set knows any.
        least: Smallest share of the image that a target covers (`recipe: own`).
        regions: Share of the samples whose target is a region of one colour instead of an object (`recipe: own`). They
            begin as those of `points.unfinished` do, since no first click could say what is meant.
        paste: Share of the samples with an object of another image pasted, as the target or in front of it (`recipe:
            own`).
        balance: `images`: all images of a set are drawn equally often; `objects`: as often as they have objects, so
            that every object counts alike, as it does in a benchmark.
        permissive: Only images whose licence is permissive, as the index of their zip shard says. Folders and sets say
            nothing of licences, so none of theirs is drawn.
        unreadable: Share of the images that may be unreadable, though always five: they are passed over, and more end
            the run after a checkpoint. At 0, the first one does.
    """

    shards: tuple[str, ...] = ("train-000.zip", "train-001.zip", "train-002.zip", "train-003.zip")
    set_weights: dict[str, float] = field(default_factory=dict)
    merge: float = 0.15
    stuff: float = 0.3
    least: float = 0.002
    regions: float = 0.0
    paste: float = 0.0
    balance: Literal["images", "objects"] = "images"
    permissive: bool = False
    unreadable: float = 0.02

    def __post_init__(self) -> None:
        for name in ("merge", "stuff", "least", "regions", "paste", "unreadable"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"data.{name} must lie in [0, 1], got {value}")


@dataclass(frozen=True)
class OptimConfig:
    """How to train.

    Attributes:
        lr: Peak learning rate.
        betas: Adam's.
        weight_decay: On matrices and kernels; biases, norms and position embeddings have none.
        warmup_samples: Samples of linear warm-up.
        schedule: `constant`; `cosine` down to zero at `samples`; `step`, times 0.1 at each of `steps`.
        steps: Shares of `samples` at which `step` steps.
        clip: Largest gradient norm; null for no limit.
        ema: Decay of the averaged weights per step; at 0 the average is the weights themselves.
        layer_decay: Factor of the learning rate from one block to the block before it; the last block, and whatever
            no pretrained backbone holds (click embedding, cross blocks, neck, head), learns at the full rate.
        grouping: `corrected`, as above; `published`, as the official code groups the parameters of plain ViTs: the
            click embedding is in no group and never learns, cross block i learns at the rate of block i, and the last
            block at a rate below that of neck and head.
        lr_factors: Factors of the learning rate by prefix of the parameter's name, the longest that fits, beside
            `layer_decay`; a factor of 0 freezes.
    """

    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_samples: int = 0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    steps: tuple[float, ...] = ()
    clip: float | None = 1.0
    ema: float = 0.999
    layer_decay: float = 1.0
    grouping: Literal["corrected", "published"] = "corrected"
    lr_factors: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, f"optim.lr must be positive, got {self.lr}")
        _require(all(0 <= b < 1 for b in self.betas), f"optim.betas must lie in [0, 1), got {self.betas}")
        _require(0 <= self.weight_decay < math.inf, f"optim.weight_decay cannot be negative, got {self.weight_decay}")
        _require(self.warmup_samples >= 0, f"optim.warmup_samples cannot be negative, got {self.warmup_samples}")
        _require(self.clip is None or self.clip > 0, f"optim.clip must be positive, got {self.clip}")
        _require(0 <= self.ema < 1, f"optim.ema must lie in [0, 1), got {self.ema}")
        _require(0 < self.layer_decay <= 1, f"optim.layer_decay must lie in (0, 1], got {self.layer_decay}")
        _require(
            all(0 < share < 1 for share in self.steps) and list(self.steps) == sorted(self.steps),
            f"optim.steps are shares of `samples` between 0 and 1, in order, got {list(self.steps)}",
        )
        for prefix, factor in self.lr_factors.items():
            _require(0 <= factor < math.inf, f"optim.lr_factors.{prefix} cannot be negative, got {factor}")


@dataclass(frozen=True)
class ValidationConfig:
    """How a run measures itself, with the averaged weights, on held-out images.

    Attributes:
        every: Samples between measurements; 0 for none.
        shard: Zip shard, relative to `--data-root`.
        limit: Objects, spread over the set.
    """

    every: int = 0
    shard: str = "val-000.zip"
    limit: int = 100


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        network: A registered name or a network mapping.
        recipe: `own`; or `published`, as the official code draws and crops objects, changes colours, draws first
            clicks, initialises what no weights fill, and drops paths in Swin. `augment` tells what counts by which.
        size: Side of the network's input in pixels.
        batch: Samples a step, over all processes.
        accumulate: Parts that a process's share of a batch is cut into, to save memory; but for dropout the step
            is the same.
        samples: Samples of the whole run.
        max_rounds: Most no-gradient rounds before a training pass, each adding one click.
        dropout: Of the head's channels.
        precision: `fp32` or `bf16` (autocast).
        channels_last: Memory layout; faster for convolutions.
        gradient_checkpointing: The transformer blocks compute anew what the backward pass needs, which takes more
            time and far less memory.
        seed: Of everything random.
        serving: Of the exported weights.
        pictures: Samples between pictures of what the network made of a batch; 0 for none.
        data, optim, augment, points, validation: See there.
        stages: Overrides by stage: mappings in the form of this config with `until`, the sample at which the next
            stage begins. The learning rate's schedule runs over each stage anew. What holds for a run as a whole
            (network, recipe, shards, samples, seed, layout, serving, pictures, validation) cannot change.
    """

    network: str | dict[str, Any] = "icmformer_vit_tiny224"
    recipe: Literal["own", "published"] = "own"
    size: int = 224
    batch: int = 16
    accumulate: int = 1
    samples: int = 100_000
    max_rounds: int = 3
    dropout: float = 0.1
    precision: Literal["fp32", "bf16"] = "bf16"
    channels_last: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    pictures: int = 5_000
    serving: ServingDefaults = field(default_factory=ServingDefaults)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    points: PointsConfig = field(default_factory=PointsConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    stages: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        network_config(self.network)
        for name in ("size", "batch", "samples", "accumulate"):
            _require(getattr(self, name) >= 1, f"{name} must be positive, got {getattr(self, name)}")
        for name in ("max_rounds", "seed", "pictures"):
            _require(getattr(self, name) >= 0, f"{name} cannot be negative, got {getattr(self, name)}")
        _require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")
        _require(self.batch % self.accumulate == 0, f"accumulate ({self.accumulate}) must divide batch ({self.batch})")
        for key in _NOT_IN[self.recipe]:
            section, name = key.split(".")
            value, default = getattr(getattr(self, section), name), _default(getattr(self, section), name)
            _require(value == default, f"{key} has no effect with recipe: {self.recipe}; leave it out")


_NOT_IN = {
    "own": ("augment.min_area", "augment.keep_background"),
    "published": (
        *(f"augment.{name}" for name in ("whole", "zoom", "zoom_expansion", "native", "gray", "least")),
        "data.least",
        "data.regions",
        "data.paste",
        "points.centre_first",
        *(f"points.{name}" for name in ("border", "edge", "anywhere", "box", "unfinished")),
    ),
}
"""What a recipe does not read."""


def _default(section: Any, name: str) -> Any:
    return next(f.default for f in dataclasses.fields(section) if f.name == name)


@dataclass(frozen=True)
class Stage:
    """A stretch of a run with one config: samples `start` to `until`."""

    config: TrainConfig
    start: int
    until: int


_OF_THE_WHOLE_RUN = {
    "network",
    "recipe",
    "samples",
    "seed",
    "channels_last",
    "gradient_checkpointing",
    "serving",
    "pictures",
    "validation",
    "stages",
}


def stages(config: TrainConfig) -> list[Stage]:
    """The run's stages in order; the last ends with the run.

    Raises:
        ConfigError: A stage with unknown keys or values, or stages out of order.
    """
    base = as_mapping(config)
    del base["stages"]
    found: list[Stage] = []
    start = 0
    for number, overrides in enumerate(config.stages):
        last = number == len(config.stages) - 1
        fixed = set(overrides) & _OF_THE_WHOLE_RUN | {
            f"data.{k}" for k in overrides.get("data", {}) if k in ("shards", "permissive", "unreadable")
        }
        _require(not fixed, f"stages[{number}] cannot change {', '.join(sorted(fixed))}: they hold for the whole run")
        until = overrides.get("until", config.samples if last else None)
        if type(until) is not int or not start < until <= config.samples:
            raise ConfigError(f"stages[{number}].until must be a sample after {start}, got {until!r}")
        _require(not last or until == config.samples, f"the last stage ends with the run: stages[{number}].until")
        merged = _merged(base, {k: v for k, v in overrides.items() if k != "until"})
        found.append(_stage(parse_config(merged, f"stages[{number}]"), start, until, f"stages[{number}].optim"))
        start = until
    return found or [_stage(config, 0, config.samples, "optim")]


def _stage(config: TrainConfig, start: int, until: int, where: str) -> Stage:
    warm = config.optim.warmup_samples
    if warm > until - start:
        raise ConfigError(f"{where}.warmup_samples ({warm:,}) are more than the {until - start:,} samples of its stage")
    return Stage(config, start, until)


def can_anneal(config: TrainConfig) -> bool:
    """Whether the learning rate falls in every stage, so that its schedule has an end to come to."""
    return all(stage.config.optim.schedule != "constant" for stage in stages(config))


def as_mapping(config: TrainConfig) -> dict[str, Any]:
    """The config as YAML and JSON hold it; `parse_config` turns it back."""
    mapping = _lists(dataclasses.asdict(config))
    assert isinstance(mapping, dict)
    return mapping


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value


def _merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` over `base`, section by section; whole values below that."""
    merged = dict(base)
    for key, value in overrides.items():
        section = merged.get(key)
        merged[key] = {**section, **value} if isinstance(section, dict) and isinstance(value, dict) else value
    return merged


def load_config(path: Path) -> TrainConfig:
    """Reads a YAML config.

    Raises:
        ConfigError: A file that cannot be read, unknown keys or values of the wrong type; the text names the key.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from error
    return parse_config(raw or {})


def parse_config(raw: Mapping[str, Any], where: str = "config") -> TrainConfig:
    """Checks a mapping against the schema; errors as in `load_config`, naming `where`."""
    config = _build(TrainConfig, raw, where)
    assert isinstance(config, TrainConfig)
    stages(config)
    return config


def _build(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {raw!r}")
    hints = typing.get_type_hints(kind)
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in raw and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    unknown = set(raw) - {f.name for f in dataclasses.fields(kind)}
    if unknown:
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        raise ConfigError(f"{where}: unknown keys {', '.join(sorted(map(str, unknown)))}; known: {known}")
    if missing:
        raise ConfigError(f"{where}: missing keys {', '.join(missing)}")
    return kind(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in raw.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is Literal:
        return _expect(value in args, value, f"one of {', '.join(map(str, args))}", where)
    if origin is tuple:
        kinds = args[:1] * len(value) if isinstance(value, list) and args[-1] is Ellipsis else args
        _expect(isinstance(value, list) and len(value) == len(kinds), value, f"a list of {len(args)} values", where)
        return tuple(_value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        _expect(isinstance(value, dict), value, "a mapping", where)
        return {k: v if args[1] is Any else _value(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin in (typing.Union, types.UnionType):
        if type(None) in args:
            return None if value is None else _value(args[0], value, where)
        return _value(str, value, where) if isinstance(value, str) else _value(args[1], value, where)
    if hint is float:
        if isinstance(value, str) and _WITHOUT_POINT.fullmatch(value):
            value = float(value)
        return float(_expect(type(value) in (int, float), value, "a number", where))
    return _expect(type(value) is hint, value, hint.__name__, where)


def _expect(fits: bool, value: Any, what: str, where: str) -> Any:
    if not fits:
        raise ConfigError(f"{where} must be {what}, got {value!r}")
    return value
