"""Masks from and to files, and pictures of masks over images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from icmformer.errors import ImageError
from icmformer.images.reading import DEFAULT_MAX_PIXELS, FORMATS, check_size, load_pixels
from icmformer.types import BoolMask, Click, FloatMap, RGBImage


def _swapped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB to BGR and back."""
    return np.ascontiguousarray(pixels[..., ::-1])


def read_mask(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> FloatMap:
    """Reads a mask file as probabilities.

    Args:
        path: An image file. Of colour, the largest channel counts.
        max_pixels: Largest mask opened.

    Returns:
        (H, W) float32 in [0, 1]: values over the type's largest, or as they are where none is over 1.

    Raises:
        ImageError: A file that is not an image, or too large a one.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(image.size, max_pixels)
            values = np.asarray(
                load_pixels(image).convert("RGB") if image.mode in ("P", "CMYK", "RGBA", "LA") else image
            )
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # hostile files make Pillow raise nearly anything
        raise ImageError(f"{path} is not a mask image that can be read (PNG is best): {error}") from error
    plane = (values if values.ndim == 2 else values.max(axis=2)).astype(np.float32)
    largest = float(plane.max())
    if largest > 1:
        plane /= 255 if largest <= 255 else 65535
    return plane.clip(0, 1)


def write_mask(path: Path, mask: BoolMask) -> None:
    """Writes a mask as an 8-bit image, 255 on the object and 0 elsewhere.

    Raises:
        ImageError: A path that cannot be written, or a suffix that names no lossless image format.
    """
    check_mask_path(path)
    _write(path, mask.astype(np.uint8) * 255)


def mask_png(mask: BoolMask) -> bytes:
    """The PNG file that `write_mask` writes, without writing it."""
    return _encoded(Path("mask.png"), mask.astype(np.uint8) * 255)


def check_mask_path(path: Path) -> None:
    """Raises `ImageError` if a mask could not be written to a path, as far as its name and folder tell."""
    if path.suffix.lower() not in (".png", ".tif", ".tiff", ".bmp"):
        raise ImageError(f"a mask is written as .png, .tif or .bmp, not {path.suffix or 'without suffix'} ({path})")
    if not path.parent.is_dir():
        raise ImageError(f"cannot write {path}: there is no folder {path.parent}")


def write_image(path: Path, pixels: RGBImage) -> None:
    """Writes an RGB image in the format its suffix names.

    Raises:
        ImageError: A path that cannot be written, or an unknown suffix.
    """
    _write(path, _swapped(pixels))


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    data = _encoded(path, pixels)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}") from error


def _encoded(path: Path, pixels: NDArray[np.uint8]) -> bytes:
    """The file that belongs under a path."""
    try:
        done, data = cv2.imencode(path.suffix or ".", pixels)
    except cv2.error as error:
        raise ImageError(f"{path}: {path.suffix or 'a name without suffix'} names no image format") from error
    if not done:
        raise ImageError(f"{path}: encoding failed")
    return data.tobytes()


def overlay(image: RGBImage, mask: BoolMask, clicks: Iterable[Click] = ()) -> RGBImage:
    """Draws a mask (green, outlined) and clicks (green positive, red negative) over a copy of the image."""
    picture = image.copy()
    picture[mask] = (0.55 * picture[mask] + 0.45 * np.array((60, 220, 90))).astype(np.uint8)
    thickness = max(1, round(max(mask.shape) / 600))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), thickness)
    radius = max(4, round(max(mask.shape) / 120))
    for click in clicks:
        row, column = click.pixel(*mask.shape)
        cv2.circle(picture, (column, row), radius, (255, 255, 255), -1, cv2.LINE_AA)
        colour = (0, 170, 60) if click.positive else (220, 40, 40)
        cv2.circle(picture, (column, row), max(2, radius - max(1, radius // 4)), colour, -1, cv2.LINE_AA)
    return picture
