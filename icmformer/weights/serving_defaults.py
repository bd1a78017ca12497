"""What belongs to weights beside the network: how clicks are played on it, and how its scores are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from icmformer.errors import ConfigError

MIN_CROP_SIZE = 200
"""Least side of a zoomed region, as published."""


@dataclass(frozen=True)
class ServingDefaults:
    """The published path, unless weights say otherwise.

    Attributes:
        min_crop_size: Least side in pixels of the region that a click zooms into.
        second_look: Whether a first click's answer is looked at again, closer; see `ClickPath`.
        click_margin: Least distance in pixels of the network's input between a click and the input's edges: nearer ones
            are drawn so far inside. With the radius of the disks, none is cut off.
        score_sharpness: How much surer than it says the network may be; see `expected_iou`. 1 takes it at its word;
            `python -m training.calibrate` finds a network's own.

    Raises:
        ConfigError: A value that cannot be used; the text names it.
    """

    min_crop_size: int = MIN_CROP_SIZE
    second_look: bool = False
    click_margin: int = 0
    score_sharpness: float = 1.0

    def __post_init__(self) -> None:
        if type(self.min_crop_size) is not int or self.min_crop_size < 1:
            raise ConfigError(f"min_crop_size must be a positive number of pixels, got {self.min_crop_size!r}")
        if type(self.second_look) is not bool:
            raise ConfigError(f"second_look must be true or false, got {self.second_look!r}")
        if type(self.click_margin) is not int or not 0 <= self.click_margin <= 32:
            raise ConfigError(f"click_margin must be a number of pixels from 0 to 32, got {self.click_margin!r}")
        sharpness = self.score_sharpness
        if isinstance(sharpness, bool) or not isinstance(sharpness, int | float) or not 0 < sharpness <= 100:
            raise ConfigError(f"score_sharpness must be a positive number, got {sharpness!r}")

    @staticmethod
    def of(description: Mapping[str, Any]) -> ServingDefaults:
        """Takes its own keys from a mapping; others are passed over, missing ones are as published.

        Raises:
            ConfigError: See the class.
        """
        names = [field.name for field in fields(ServingDefaults) if field.name in description]
        return ServingDefaults(**{name: description[name] for name in names})

    def as_mapping(self) -> dict[str, Any]:
        """The form that `of` reads."""
        return asdict(self)


AS_PUBLISHED = ServingDefaults()
"""What holds for weights that say nothing."""
