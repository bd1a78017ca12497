"""What belongs to weights beside the network: how clicks become masks with it, and how its scores are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from icmformer.errors import ConfigError

MIN_CROP_SIZE = 200
"""Least side of an ROI, as published."""
THRESHOLD = 0.49
"""Probability above which a pixel is in the mask, as published: the one place where it is written."""


@dataclass(frozen=True)
class ServingDefaults:
    """The published path, unless weights say otherwise.

    Attributes:
        min_crop_size: Least side in pixels of the ROI that a click zooms into.
        refinement_pass: Whether the object that a first click found is segmented once more, coarse to fine, in its own
            ROI and with the first prediction as the previous mask, before the mask is given.
        click_margin: Least distance in pixels of the network's input between a click and the input's edges: nearer ones
            are drawn so far inside. With the radius of the disks, none is cut off.
        score_sharpness: Factor on the log-odds of pixels in the score of a mask; see `expected_iou`. 1 leaves
            them as they are; `training.calibrate` finds a network's own.
        threshold: Probability above which a pixel is in the mask.

    Raises:
        ConfigError: A value that cannot be used; the text names it.
    """

    min_crop_size: int = MIN_CROP_SIZE
    refinement_pass: bool = False
    click_margin: int = 0
    score_sharpness: float = 1.0
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        if type(self.min_crop_size) is not int or self.min_crop_size < 1:
            raise ConfigError(f"min_crop_size must be a positive number of pixels, got {self.min_crop_size!r}")
        if type(self.refinement_pass) is not bool:
            raise ConfigError(f"refinement_pass must be true or false, got {self.refinement_pass!r}")
        if type(self.click_margin) is not int or not 0 <= self.click_margin <= 32:
            raise ConfigError(f"click_margin must be a number of pixels from 0 to 32, got {self.click_margin!r}")
        sharpness = self.score_sharpness
        if isinstance(sharpness, bool) or not isinstance(sharpness, int | float) or not 0 < sharpness <= 100:
            raise ConfigError(f"score_sharpness must be a positive number, got {sharpness!r}")
        if not isinstance(self.threshold, float) or not 0 < self.threshold < 1:
            raise ConfigError(f"threshold must be a probability between 0 and 1, got {self.threshold!r}")

    @staticmethod
    def of(description: Mapping[str, Any]) -> ServingDefaults:
        """Takes its own keys from a mapping; others are passed over, missing ones are as published.

        `second_look`, as formats 1 and 2 and older training runs have it, is `refinement_pass`.

        Raises:
            ConfigError: See the class.
        """
        if "second_look" in description:
            description = {"refinement_pass": description["second_look"], **description}
        return ServingDefaults(
            **{f.name: description[f.name] for f in fields(ServingDefaults) if f.name in description}
        )

    def as_mapping(self) -> dict[str, Any]:
        """The form that `of` reads."""
        return asdict(self)


AS_PUBLISHED = ServingDefaults()
"""What holds for weights that say nothing."""
