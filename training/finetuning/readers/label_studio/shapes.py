"""What Label Studio's regions outline. Coordinates are percent of the photo; masks are as large as the photo."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.types import BoolMask

from ....data.outlines import checked_points, finite, polygon_mask
from ..annotations import BadAnnotationError, Shape
from ..photo_finder import data_address
from ..shapes import Ellipse
from .rle import decode_rle

_OTHER_SIZE = "a mask of another size than its photo"
_NO_NUMBER = "a coordinate that is no number"
_MOST_POINTS = 200_000
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class PercentPolygon:
    """A closed polygon.

    Attributes:
        points: (N, 2) x and y in percent.
    """

    points: NDArray[np.float64]

    def draw(self, height: int, width: int) -> BoolMask:
        with np.errstate(over="ignore"):
            ring = (self.points * [width / 100, height / 100]).ravel().tolist()
        return polygon_mask(checked_points(ring), height, width)


@dataclass(frozen=True)
class PercentEllipse:
    """An ellipse; its radii are percent of the photo's width and height before it is turned.

    Attributes:
        middle: x and y.
        radii: Along x and y.
        degrees: Turned by, clockwise.
    """

    middle: tuple[float, float]
    radii: tuple[float, float]
    degrees: float

    def draw(self, height: int, width: int) -> BoolMask:
        finite(*self.middle, *self.radii, self.degrees)
        (x, y), (rx, ry) = self.middle, self.radii
        scaled = Ellipse((x * width / 100, y * height / 100), (rx * width / 100, ry * height / 100), self.degrees)
        return scaled.draw(height, width)


@dataclass(frozen=True)
class Brush:
    """A brush mask: run lengths of RGBA pixels, of which the page shows what has alpha; half of it counts here.

    Attributes:
        rle: The stream.
        size: Height and width of the photo as the region states them; None where it does not.
    """

    rle: bytes
    size: tuple[int, int] | None

    def draw(self, height: int, width: int) -> BoolMask:
        _same(self.size, height, width)
        pixels = height * width
        values = decode_rle(self.rle, (4 * pixels, pixels))
        if values.size == pixels:  # some programs write one value a pixel
            return values.reshape(height, width) > 127
        alpha: BoolMask = values.reshape(height, width, 4)[..., 3] > 127
        return alpha


@dataclass(frozen=True)
class Bitmask:
    """A PNG in a `data:` address: what has alpha is the mask, whatever its colour.

    Attributes:
        address: The PNG.
        size: As of `Brush`.
    """

    address: str
    size: tuple[int, int] | None

    def draw(self, height: int, width: int) -> BoolMask:
        _same(self.size, height, width)
        content = data_address(self.address)
        if content is None:
            raise BadAnnotationError("a bitmask that is no data: address")
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.size != (width, height):
                    raise BadAnnotationError(_OTHER_SIZE, f"{image.width} x {image.height}")
                if "A" not in image.getbands() and "transparency" not in image.info:
                    raise BadAnnotationError(
                        "a bitmask without transparency", "Label Studio shows it as all of the photo"
                    )
                alpha = image.convert("RGBA").getchannel("A")
        except BadAnnotationError:
            raise
        except _UNREADABLE as error:
            raise BadAnnotationError("a bitmask that is damaged", str(error)[:200]) from error
        inside: BoolMask = np.asarray(alpha) > 127
        return inside


def _same(size: tuple[int, int] | None, height: int, width: int) -> None:
    if size not in (None, (height, width)):
        raise BadAnnotationError(_OTHER_SIZE, f"it was drawn on {size[1]} x {size[0]} pixels" if size else "")


OUTLINES = frozenset({"brush", "bitmask", "polygon", "ellipse"})


def kind_of(value: Mapping[str, Any]) -> str | None:
    """What a region's value draws; None where it draws nothing on a photo (a choice, a text, a part of a text)."""
    for key, kind in (
        ("rle", "brush"),
        ("imageDataURL", "bitmask"),
        ("vertices", "vector"),
        ("sequence", "video"),
        ("points", "polygon" if value.get("closed", True) else "polygon that is not closed"),
        ("radiusX", "ellipse"),
    ):
        if key in value:
            return kind
    if "x" in value and "y" in value:
        return "rectangle" if "height" in value else "keypoint"
    return None


def geometry(value: Mapping[str, Any]) -> object:
    """What tells two regions apart that have no id."""
    keys = "rle", "imageDataURL", "vertices", "sequence", "points", "radiusX", "radiusY", "x", "y", "width", "height"
    return [value.get(key) for key in (*keys, "rotation")]


def shape_of(value: Mapping[str, Any], kind: str, size: tuple[int, int] | None) -> Shape:
    """The outline of a region's value.

    Args:
        value: As exported.
        kind: One of `OUTLINES`.
        size: Height and width of the photo that the region states.

    Raises:
        BadAnnotationError: Something is missing, or of another type.
    """
    if kind == "brush":
        return Brush(_bytes(value["rle"]), size)
    if kind == "bitmask":
        address = value["imageDataURL"]
        if not isinstance(address, str):
            raise BadAnnotationError("a bitmask that is no data: address", f"but {type(address).__name__}")
        return Bitmask(address, size)
    if kind == "polygon":
        return PercentPolygon(_points(value["points"]))
    x, y, rx, ry = (_number(value.get(key)) for key in ("x", "y", "radiusX", "radiusY"))
    return PercentEllipse((x, y), (rx, ry), _number(value.get("rotation") or 0))


def _bytes(stream: Any) -> bytes:
    if not isinstance(stream, list):
        raise BadAnnotationError("a brush region without a mask", f"rle is {type(stream).__name__}")
    try:
        return bytes(stream)
    except (TypeError, ValueError) as error:
        raise BadAnnotationError("a brush mask that is damaged", str(error)) from error


def _points(points: Any) -> NDArray[np.float64]:
    if not isinstance(points, list):
        raise BadAnnotationError("a polygon that is no list of points")
    if len(points) > _MOST_POINTS:
        raise BadAnnotationError("a polygon of too many points", f"{len(points):,}")
    if not points:
        raise BadAnnotationError("fewer than three points", "0")
    try:
        numbers = np.asarray([[x, y] for x, y in points], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadAnnotationError(_NO_NUMBER, str(error)[:200]) from error
    if numbers.shape != (len(points), 2):
        raise BadAnnotationError("a polygon that is no list of points")
    return numbers


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAnnotationError(_NO_NUMBER, type(value).__name__)
    try:
        return float(value)
    except OverflowError as error:
        raise BadAnnotationError("a coordinate far outside the photo", "an integer that no float holds") from error
