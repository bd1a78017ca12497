"""CVAT's masks, polygons and ellipses: attributes of an XML element, read when they are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icmformer.types import BoolMask

from ...data.outlines import finite
from .annotations import BadAnnotationError
from .shapes import Ellipse, Polygon

OUTLINES = ("mask", "polygon", "ellipse")
_NO_NUMBER = "a coordinate that is no number"
_BAD_RUNS = "run lengths that do not fill their box"


@dataclass(frozen=True)
class CvatShape:
    """A `<mask>`, `<polygon>` or `<ellipse>`.

    Attributes:
        tag: One of `OUTLINES`.
        attributes: As the XML has them.
    """

    tag: str
    attributes: Mapping[str, str]

    def draw(self, height: int, width: int) -> BoolMask:
        if self.tag == "mask":
            return self._mask(height, width)
        if self.tag == "polygon":
            return Polygon(self._ring()).draw(height, width)
        middle, radii = (self._number("cx"), self._number("cy")), (self._number("rx"), self._number("ry"))
        return Ellipse(middle, radii, self._number("rotation", "0")).draw(height, width)

    def _mask(self, height: int, width: int) -> BoolMask:
        """Runs in rows of the box, background first; `left` and `top` are its first pixel."""
        left, top, across, down = (self._whole(key) for key in ("left", "top", "width", "height"))
        if left < 0 or top < 0 or across < 1 or down < 1 or left + across > width or top + down > height:
            told = f"{across} x {down} at {left}, {top} on {width} x {height}"
            raise BadAnnotationError("a box that leaves the photo", told)
        text, area = self._text("rle"), across * down
        number = text.count(",") + 1
        if number > area + 1:
            raise BadAnnotationError(_BAD_RUNS, f"{number:,} runs in a box of {area:,} pixels")
        runs = _numbers(text, number)
        if not ((runs >= 0) & (runs <= area) & (runs == np.floor(runs))).all() or runs.sum() != area:  # NaN fails too
            raise BadAnnotationError(_BAD_RUNS, f"a box of {area:,} pixels")
        inside = np.repeat(np.arange(number) % 2 == 1, runs.astype(np.int64))
        mask = np.zeros((height, width), bool)
        mask[top : top + down, left : left + across] = inside.reshape(down, across)
        return mask

    def _ring(self) -> list[float]:
        text = self._text("points").strip().rstrip(";")
        points = text.count(";") + 1
        if text.count(",") != points:
            raise BadAnnotationError("a polygon that is no list of points")
        numbers: list[float] = _numbers(text.replace(";", ","), 2 * points).tolist()
        return numbers

    def _text(self, key: str, default: str | None = None) -> str:
        text = self.attributes.get(key, default)
        if text is None:
            raise BadAnnotationError("an attribute that is not there", f"a {self.tag} has no {key!r}")
        return text

    def _number(self, key: str, default: str | None = None) -> float:
        number = as_number(self._text(key, default))
        if number is None:
            raise BadAnnotationError(_NO_NUMBER, f"{key} of a {self.tag}")
        finite(number)
        return number

    def _whole(self, key: str) -> int:
        number = self._number(key)
        if not number.is_integer():
            raise BadAnnotationError("a mask between pixels", f"{key} is {number:g}")
        return int(number)


def as_number(text: str) -> float | None:
    """A number of an attribute, which may be NaN or infinite; None for another text."""
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(text: str, number: int) -> NDArray[np.float64]:
    """So many numbers with commas between, in 8 bytes each.

    Raises:
        BadAnnotationError: Something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # NumPy 2.0 to 2.2 only warn of what cannot be read
            numbers = np.fromstring(text, np.float64, sep=",")
    except (ValueError, DeprecationWarning) as error:
        raise BadAnnotationError(_NO_NUMBER, str(error)) from error
    if numbers.size != number or not text.strip():  # numpy reads -1 from blanks
        raise BadAnnotationError(_NO_NUMBER, f"{number:,} are due, {numbers.size:,} can be read")
    return numbers
