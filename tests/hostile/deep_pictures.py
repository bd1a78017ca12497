"""Image files with alpha or more than 8 bits, which each tool shows in its own way, and AVIF: right, odd and broken."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.hostile.pictures import BROKEN, EITHER, FINE, Made, changed, cut, gray_tiff, photo, saved


def avif(**options: object) -> bytes:
    """A photo as AVIF."""
    out = io.BytesIO()
    photo().save(out, "AVIF", **options)
    return out.getvalue()


def of(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    """Any array as a file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def alpha(values: np.ndarray | int, form: str = "PNG") -> bytes:
    """A photo with an alpha channel."""
    picture = photo()
    picture.putalpha(Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), (64, 96)).copy()))
    return of(np.asarray(picture), form)


def sixteen(values: np.ndarray | int, form: str = "PNG") -> bytes:
    """A gray picture of 16 bits."""
    return of(np.broadcast_to(np.asarray(values, np.uint16), (64, 96)).copy(), form)


def _said_to_be(width: int, height: int) -> bytes:
    """An AVIF file whose header gives another size (its `ispe` box)."""
    content = avif()
    place = content.index(b"ispe") + 8
    return changed(content, place, width.to_bytes(4, "big") + height.to_bytes(4, "big"))


def deep_pictures() -> dict[str, Made]:
    """All of them by name."""
    ramp = np.arange(6144).reshape(64, 96)
    hot = np.full((64, 96), 1000) + 60000 * (ramp == 77)
    return {
        "AVIF": (lambda: avif(), FINE),
        "AVIF of 10 frames": (lambda: avif(save_all=True, append_images=[photo()] * 9), FINE),
        "AVIF that ends early": (lambda: avif()[:400], BROKEN),
        "AVIF of a header alone": (lambda: avif()[:40], BROKEN),
        "AVIF with noise for pixels": (lambda: changed(avif(), len(avif()) - 200, bytes(range(200))), EITHER),
        "AVIF said to be 60,000 pixels wide": (lambda: _said_to_be(60_000, 60_000), frozenset({413, 422})),
        "AVIF said to be of no size": (lambda: _said_to_be(0, 0), BROKEN),
        "HEIC by its name": (lambda: b"\0\0\0\x18ftypheic" + bytes(200), BROKEN),
        "PNG all of it transparent": (lambda: alpha(0), FINE),
        "PNG half of it transparent": (lambda: alpha((ramp % 96) * 2), FINE),
        "WebP all of it transparent": (lambda: alpha(0, "WEBP"), FINE),
        "BMP with alpha": (lambda: alpha(7, "BMP"), FINE),
        "TIFF with alpha": (lambda: alpha(128, "TIFF"), FINE),
        "PNG of 16 bits and one value": (lambda: sixteen(40_000), FINE),
        "PNG of 16 bits and hot pixels": (lambda: sixteen(hot), FINE),
        "PNG of 16 bits that ends early": (lambda: sixteen(ramp)[: len(sixteen(ramp)) // 2], BROKEN),
        "TIFF of 16 bits, big end first": (lambda: gray_tiff(t258=(3, 1, 16)), EITHER),
        "TIFF of 32 bits and zeros": (lambda: of(np.zeros((64, 96), np.int32), "TIFF"), FINE),
        "TIFF of 32 bits below zero": (lambda: of(np.full((64, 96), -(2**31), np.int32), "TIFF"), FINE),
        "TIFF of 32 bits and the largest numbers": (lambda: of(np.full((64, 96), 2**31 - 1, np.int32), "TIFF"), FINE),
        "TIFF of 64 bits": (lambda: gray_tiff(t258=(3, 1, 64), t339=(3, 1, 3)), BROKEN),
        "TIFF of nine bands": (lambda: gray_tiff(t277=(3, 1, 9), t258=(3, 1, 16)), BROKEN),
        "BigTIFF of nothing": (lambda: b"II+\0\x08\0\0\0" + bytes(8), BROKEN),
        "a WebP with alpha that ends early": (cut("WEBP", 0.5), BROKEN),
        "a PNG with alpha that ends early": (lambda: alpha(9)[: len(alpha(9)) // 2], BROKEN),
        "PNG of a palette with alpha": (lambda: saved("PNG", "P", transparency=b"\0\x40\x80\xff" * 8), FINE),
    }
