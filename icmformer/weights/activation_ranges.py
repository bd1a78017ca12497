"""Between which values the inputs of a network's products lie: what computing in int8 needs beside the weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icmformer.errors import ConfigError

Range = tuple[float, float]
PARTS = ("encode", "decode")


@dataclass(frozen=True)
class ActivationRanges:
    """The ranges of a network's two halves, as `training.quantise` measures them on clicks.

    Attributes:
        encode: Of the image encoder: name of a product in the converted network -> least and largest value.
        decode: Of the mask decoder.
    """

    encode: Mapping[str, Range]
    decode: Mapping[str, Range]

    @property
    def digest(self) -> str:
        """The same for equal ranges alone."""
        return hashlib.sha256(json.dumps(self.as_mapping(), sort_keys=True).encode()).hexdigest()[:16]

    @staticmethod
    def of(description: Any) -> ActivationRanges | None:
        """Reads the form that `as_mapping` gives; None for None.

        Raises:
            ConfigError: Another form.
        """
        if description is None:
            return None
        try:
            parts = {part: {str(name): _range(ends) for name, ends in description[part].items()} for part in PARTS}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"int8 must hold ranges for encode and decode ({error!r:.80})") from error
        return ActivationRanges(**parts)

    def as_mapping(self) -> dict[str, dict[str, list[float]]]:
        """The form that `of` reads."""
        return {part: {name: [*ends] for name, ends in getattr(self, part).items()} for part in PARTS}


def _range(ends: Any) -> Range:
    low, high = map(float, ends)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{low} to {high}")
    return low, high
