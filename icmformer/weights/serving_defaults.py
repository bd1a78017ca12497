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
class CloseUp:
    """How later clicks zoom in, once the mask is nearly right.

    An ROI stays as long as the one that is asked for overlaps it by half, here as everywhere: so the ROIs of small
    objects change, which `ServingDefaults.min_crop_size` has kept large.

    Attributes:
        from_click: The first click of an object that does, counted from 1, a box's own click included; 2 at least. The
            refinement pass never does.
        min_crop_size: Least side in pixels of the ROI; where `ServingDefaults.min_crop_size` is less, that holds.
        expansion_ratio: The ROI's side over the mask's side.

    Raises:
        ConfigError: A value that cannot be used; the text names it.
    """

    from_click: int
    min_crop_size: int
    expansion_ratio: float

    def __post_init__(self) -> None:
        if type(self.from_click) is not int or self.from_click < 2:
            raise ConfigError(f"close_up.from_click must be 2 or a later click, got {self.from_click!r}")
        if type(self.min_crop_size) is not int or self.min_crop_size < 1:
            raise ConfigError(f"close_up.min_crop_size must be a positive number of pixels, got {self.min_crop_size!r}")
        ratio = self.expansion_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio <= 10:
            raise ConfigError(f"close_up.expansion_ratio must be a number from 1 to 10, got {ratio!r}")

    @staticmethod
    def of(description: Any) -> CloseUp | None:
        """Takes its keys from a mapping; None for none.

        Raises:
            ConfigError: Not a mapping of these keys and no others; see also the class.
        """
        if description is None or isinstance(description, CloseUp):
            return description
        known = {f.name for f in fields(CloseUp)}
        if not isinstance(description, Mapping) or set(description) != known:
            raise ConfigError(f"close_up must be a mapping of {', '.join(sorted(known))}, got {description!r}")
        return CloseUp(**description)


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
        close_up: How later clicks zoom in; None: as all others.

    Raises:
        ConfigError: A value that cannot be used; the text names it.
    """

    min_crop_size: int = MIN_CROP_SIZE
    refinement_pass: bool = False
    click_margin: int = 0
    score_sharpness: float = 1.0
    threshold: float = THRESHOLD
    close_up: CloseUp | None = None

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

    def zoom_at(self, clicks: int) -> tuple[int, float | None]:
        """How a step with so many clicks zooms in: the ROI's least side in pixels, and its side over the mask's.

        The latter is None where the predictor's own ratio holds.
        """
        close_up = self.close_up
        if close_up is None or clicks < close_up.from_click:
            return self.min_crop_size, None
        return min(self.min_crop_size, close_up.min_crop_size), close_up.expansion_ratio

    @property
    def zoom(self) -> str:
        """How clicks zoom in, for people."""
        told = f"{self.min_crop_size} pixels at least"
        if self.close_up:
            least, ratio = self.zoom_at(self.close_up.from_click)
            told += f"; from click {self.close_up.from_click} on {least}, and {ratio:g} times the mask's sides"
        return told

    @staticmethod
    def of(description: Mapping[str, Any]) -> ServingDefaults:
        """Takes its own keys from a mapping; others are passed over, missing ones are as published.

        `second_look`, as formats 1 and 2 and older training runs have it, is `refinement_pass`.

        Raises:
            ConfigError: See the class.
        """
        if "second_look" in description:
            description = {"refinement_pass": description["second_look"], **description}
        known = {f.name: description[f.name] for f in fields(ServingDefaults) if f.name in description}
        return ServingDefaults(**{**known, "close_up": CloseUp.of(known.get("close_up"))})

    def as_mapping(self) -> dict[str, Any]:
        """The form that `of` reads."""
        return asdict(self)


AS_PUBLISHED = ServingDefaults()
"""What holds for weights that say nothing."""
