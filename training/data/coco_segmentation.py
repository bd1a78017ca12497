"""COCO's segmentations: polygons, and run lengths packed or plain, checked before pycocotools sees them.

pycocotools trusts what it is given: run lengths that are too short leave memory as it was, and polygons take memory by
the length of their outline.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icmformer.types import BoolMask

from .outlines import BadAnnotationError, checked_points, polygon_mask, whole_number
from .packed_mask import LONGEST_NUMBER, PackedMask, unpacked_runs

NO_OUTLINE = "no outline"
FEW_POINTS = "fewer than three points"


def decode(segmentation: Any, height: int, width: int) -> BoolMask:
    """The (height, width) bool mask of a segmentation; see `encode`."""
    return encode(segmentation, height, width).mask()


def encode(segmentation: Any, height: int, width: int) -> PackedMask:
    """The mask of a segmentation, packed.

    Args:
        segmentation: A list of rings x1, y1, x2, y2, ..., one such ring, run lengths with `size` and `counts`, or a
            list of those. Rings of fewer than three points are passed over where there are others.
        height: Of the image.
        width: Of the image.

    Raises:
        BadAnnotationError: It is of another form or size, outlines nothing, or its numbers cannot be.
    """
    nothing = outlines_nothing(segmentation)
    if nothing:
        raise BadAnnotationError(nothing)
    return PackedMask.union(list(_parts(segmentation, height, width)))


def outlines_nothing(segmentation: Any) -> str:
    """In a few words why a segmentation has nothing to draw; empty where it has."""
    if not segmentation:
        return NO_OUTLINE
    if isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        longest = max(map(len, segmentation))
        return "" if longest >= 6 else FEW_POINTS if longest else NO_OUTLINE
    return ""


def _parts(segmentation: Any, height: int, width: int) -> Iterator[PackedMask]:
    one_ring = isinstance(segmentation, list) and isinstance(segmentation[0], int | float)
    for part in segmentation if isinstance(segmentation, list) and not one_ring else [segmentation]:
        if isinstance(part, Mapping):
            yield PackedMask.of_runs(_runs(part, height, width), height, width)
        elif not isinstance(part, list):
            raise BadAnnotationError("neither polygons nor run lengths", f"a {type(part).__name__}")
        elif len(part) >= 6 or one_ring:
            yield _ring(part, height, width)


def _ring(ring: list[Any], height: int, width: int) -> PackedMask:
    points = checked_points(ring)
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()
    if steps > height * width / 4 + 16 * (height + width):  # pycocotools needs 100 bytes for each
        return PackedMask.of(polygon_mask(points, height, width))
    return PackedMask.of_ring(points, height, width)


def _runs(segmentation: Mapping[str, Any], height: int, width: int) -> NDArray[np.int64]:
    """Checked run lengths: they fill the image exactly."""
    size, counts, pixels = segmentation.get("size"), segmentation.get("counts"), height * width
    rows, columns = map(whole_number, size) if isinstance(size, list | tuple) and len(size) == 2 else (None, None)
    if rows is None or columns is None:
        raise BadAnnotationError("run lengths without a size")
    if (rows, columns) != (height, width):
        swapped = (columns, rows) == (height, width)
        kind = "run lengths with height and width swapped" if swapped else "run lengths of another size"
        raise BadAnnotationError(kind, f"{_short(rows)} x {_short(columns)}, the image {height} x {width}")
    most = 2 * pixels + 2  # every other one may be empty
    if isinstance(counts, list):
        runs = _plain(counts) if len(counts) <= most else None
    elif isinstance(counts, str | bytes):
        runs = unpacked_runs(_as_bytes(counts)) if len(counts) <= LONGEST_NUMBER * most + 3 else None
    else:
        raise BadAnnotationError("run lengths that are neither numbers nor text", f"a {type(counts).__name__}")
    if runs is not None and runs.size and runs.min() < 0:
        raise BadAnnotationError("a run length below zero")
    if runs is None or (runs.size and runs.max() > pixels) or runs.sum() > pixels:
        raise BadAnnotationError("run lengths longer than the image", f"of {pixels:,} pixels")
    if runs.sum() < pixels:
        raise BadAnnotationError("run lengths shorter than the image", f"{runs.sum():,} of {pixels:,} pixels")
    return runs


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**9 else f"10^{len(str(abs(number))) - 1}"


def _plain(counts: list[Any]) -> NDArray[np.int64]:
    try:
        runs = np.asarray(counts, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadAnnotationError("a run length that is no number", str(error)[:80]) from error
    if runs.ndim != 1 or not np.isfinite(runs).all() or (runs != np.floor(runs)).any() or (np.abs(runs) > 2**35).any():
        raise BadAnnotationError("a run length that is no number")
    return runs.astype(np.int64)


def _as_bytes(text: str | bytes) -> bytes:
    """The packed text; also from Python's notation of bytes, as scripts write it that make text of everything."""
    try:
        if isinstance(text, str) and text[:2] in ("b'", 'b"'):
            text = ast.literal_eval(text)
        return text.encode("ascii") if isinstance(text, str) else bytes(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadAnnotationError("packed run lengths that are damaged", "text that is not COCO's") from error
