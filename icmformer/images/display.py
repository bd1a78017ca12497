"""How an image that is not plain RGB becomes it: as the tool shows it in which the annotator clicks.

| | plain | CVAT 2.73 | Label Studio 1.23 in a browser |
|---|---|---|---|
| transparency | over white | dropped | over the page's ground, nearly white; a BMP's is dropped |
| 16 bits, gray | scaled by least and largest value | scaled, then its histogram is equalised | the upper 8 bits |
| 16 bits, big end first (TIFF) | scaled by least and largest value | cut to 0..255 | not shown |
| 32 bits, whole numbers | scaled by least and largest value | times 256 over the largest value | not shown |
| floating point | scaled by least and largest value | cut to 0..255 | not shown |

Scaling to plain passes over a TIFF's no-data value (GDAL's tag), NaN and infinities, which come out black; CVAT knows
nothing of such a value. What a tool does not show is taken as plain, any TIFF of 16 bits in a browser too. Label
Studio's page also has a dark theme; requests do not say which is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from icmformer.types import RGBImage

ShownBy = Literal["plain", "cvat", "label studio"]
"""Who shows an image."""

_BAND = 1 << 20  # pixels converted at a time: what is on the way from file to array is then small beside the array
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_WHITE, _GROUND = (255, 255, 255), (253, 253, 252)

Converted = NDArray[np.uint8]
"""(H, W, 3) RGB, or (H, W, 1) gray."""


_NO_DATA_TAG = 42113


def no_data_value(image: Image.Image) -> float | None:
    """The value that GDAL's tag of a TIFF declares to be no data; None where there is none.

    Args:
        image: As opened: Pillow's copies have no tags.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    try:
        return float(tags[_NO_DATA_TAG])
    except (KeyError, TypeError, ValueError):
        return None


def to_rgb(
    image: Image.Image, shown_by: ShownBy = "plain", file_format: str | None = None, no_data: float | None = None
) -> RGBImage:
    """The pixels of a Pillow image, as they are shown.

    Args:
        image: Loaded.
        shown_by: By which tool.
        file_format: Of the file that it comes from, by Pillow's name.
        no_data: See `no_data_value`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if shown_by == "cvat" and image.mode == "I;16":
        image = _equalised(image)
    width, height = image.size
    convert = _conversion(image, shown_by, file_format, no_data)
    pixels = np.empty((height, width, 3), np.uint8)
    for top, band in _bands(image):
        pixels[top : top + band.size[1]] = convert(band)
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in bands of whole rows, each with its first row."""
    width, height = image.size
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


def _conversion(
    image: Image.Image, shown_by: ShownBy, file_format: str | None, no_data: float | None
) -> Callable[[Image.Image], Converted]:
    """What converts a band of the image."""
    if image.mode in (*_SIXTEEN_BITS, "I", "F"):
        return _wide(image, shown_by, file_format, no_data)
    if image.mode == "LAB":
        profile = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return lambda band: np.asarray(ImageCms.applyTransform(band, profile))
    dropped = shown_by == "cvat" or (shown_by == "label studio" and file_format == "BMP")
    if image.has_transparency_data and not dropped:
        return _over(_GROUND if shown_by == "label studio" else _WHITE)
    if image.mode == "P" and image.has_transparency_data:  # Pillow warns where it is left out at once
        return lambda band: np.asarray(band.convert("RGBA").convert("RGB"))
    return lambda band: np.asarray(band.convert("RGB"))


def _over(colour: tuple[int, int, int]) -> Callable[[Image.Image], Converted]:
    """Lays transparency over a colour."""

    def convert(band: Image.Image) -> Converted:
        layer = band.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, (*colour, 255)), layer).convert("RGB"))

    return convert


def _wide(
    image: Image.Image, shown_by: ShownBy, file_format: str | None, no_data: float | None
) -> Callable[[Image.Image], Converted]:
    """Conversion of gray images of more than 8 bits."""
    if shown_by == "label studio" and image.mode in _SIXTEEN_BITS and file_format != "TIFF":
        return lambda band: (np.asarray(band) >> 8).astype(np.uint8)[..., None]
    if shown_by == "cvat" and image.mode != "I":
        return lambda band: np.asarray(band.convert("RGB"))
    if shown_by == "cvat":
        _, high = _ends(image, None)
        factor = 256.0 / high if high > 0 else 0.0
        return lambda band: (np.asarray(band) * factor).clip(0, 255).astype(np.uint8)[..., None]
    ends = _ends(image, no_data)
    return lambda band: np.rint(_scaled(band, ends, no_data)).astype(np.uint8)[..., None]


def _ends(image: Image.Image, no_data: float | None) -> tuple[float, float]:
    """An image's least and largest value; both are 0 where it has none."""
    low, high = np.inf, -np.inf
    for _, band in _bands(image):
        numbers, known = _numbers(band, no_data)
        low = min(low, float(numbers.min(initial=np.inf, where=known)))
        high = max(high, float(numbers.max(initial=-np.inf, where=known)))
    return (low, high) if low <= high else (0.0, 0.0)


def _scaled(band: Image.Image, ends: tuple[float, float], no_data: float | None) -> NDArray[np.float64]:
    """Values moved linearly to 0..255; those of a constant image, and what is no data, are 0."""
    (low, high), (numbers, known) = ends, _numbers(band, no_data)
    return np.where(known, (numbers - low) * (255.0 / (high - low) if high > low else 0.0), 0.0)


def _equalised(image: Image.Image) -> Image.Image:
    """A gray image of 8 bits: values scaled, their histogram equalised."""
    ends = _ends(image, None)
    gray = np.empty(image.size[::-1], np.uint8)
    for top, band in _bands(image):
        gray[top : top + band.size[1]] = _scaled(band, ends, None)
    return ImageOps.equalize(Image.fromarray(gray))


def _numbers(band: Image.Image, no_data: float | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values, what is not finite as 0, and which of them are data."""
    values = np.asarray(band)
    known = np.isfinite(values)
    if no_data is not None and np.isfinite(no_data):
        if values.dtype.kind == "f":
            ends = np.finfo(values.dtype)  # the text may have more digits than pixels have, or be of a wider type
            known &= values != values.dtype.type(min(max(no_data, float(ends.min)), float(ends.max)))
        else:
            known &= values != no_data
            if values.dtype == np.int32 and no_data >= 2**31:  # Pillow reads unsigned numbers as signed ones
                known &= values != no_data - 2**32
    return np.where(known, values, 0).astype(np.float64), known
