"""Training configs: YAML files checked against frozen dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from icmformer.errors import ConfigError
from icmformer.models import network_config
from training.augment import AugmentConfig
from training.points import PointsConfig


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Attributes:
        shards: Zip shards, relative to `--data-root`.
        set_weights: How much more often photos of a set are drawn than others (1 where not named).
        merge: Probability of merging two objects of a photo into one target.
    """

    shards: tuple[str, ...] = ("train-000.zip", "train-001.zip", "train-002.zip", "train-003.zip")
    set_weights: dict[str, float] = field(default_factory=dict)
    merge: float = 0.15


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
        clip: Largest gradient norm.
        ema: Decay of the averaged weights per step.
    """

    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_samples: int = 0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    steps: tuple[float, ...] = ()
    clip: float = 1.0
    ema: float = 0.999


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        network: A registered name or a network mapping.
        size: Side of the network's input in pixels.
        batch: Samples a step, over all processes.
        samples: Samples of the whole run.
        max_rounds: Most no-gradient rounds before a training pass, each adding one click.
        precision: `fp32` or `bf16` (autocast).
        seed: Of everything random.
        data, optim, augment, points: See there.
    """

    network: str | dict[str, Any] = "icmformer_vit_tiny224"
    size: int = 224
    batch: int = 16
    samples: int = 100_000
    max_rounds: int = 3
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    points: PointsConfig = field(default_factory=PointsConfig)

    def __post_init__(self) -> None:
        network_config(self.network)
        for name in ("size", "batch", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")


def load_config(path: Path) -> TrainConfig:
    """Reads a YAML config.

    Raises:
        ConfigError: A file that cannot be read, unknown keys or values of the wrong type; the text names the key.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from error
    return parse_config(raw or {})


def parse_config(raw: Mapping[str, Any]) -> TrainConfig:
    """Checks a mapping against the schema; errors as in `load_config`."""
    config = _build(TrainConfig, raw, "config")
    assert isinstance(config, TrainConfig)
    return config


def _build(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {raw!r}")
    hints = typing.get_type_hints(kind)
    unknown = set(raw) - {f.name for f in dataclasses.fields(kind)}
    if unknown:
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        raise ConfigError(f"{where}: unknown keys {', '.join(sorted(map(str, unknown)))}; known: {known}")
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
        return _value(str, value, where) if isinstance(value, str) else _value(args[1], value, where)
    if hint is float:
        return float(_expect(type(value) in (int, float), value, "a number", where))
    return _expect(type(value) is hint, value, hint.__name__, where)


def _expect(fits: bool, value: Any, what: str, where: str) -> Any:
    if not fits:
        raise ConfigError(f"{where} must be {what}, got {value!r}")
    return value
