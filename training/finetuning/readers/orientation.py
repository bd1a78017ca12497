"""From the frame of annotations to the upright photo: cameras store a photo as they were held, and say so in EXIF."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .annotations import BadAnnotationError, Orientation, Photo
from .reading_report import ReadingReport

_TAG = 0x0112
_TURNS = {  # EXIF orientation -> what makes the stored picture upright, as in PIL.ImageOps.exif_transpose
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


@dataclass(frozen=True)
class Frame:
    """Where a photo's annotations are drawn.

    Attributes:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        turn: The EXIF orientation to apply to what is drawn; 1 where there is nothing to turn.
    """

    height: int
    width: int
    turn: int = 1

    def upright(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A label map of the frame as one of the upright photo."""
        if self.turn == 1:
            return labels
        return np.asarray(Image.fromarray(labels).transpose(_TURNS[self.turn]))


def frame_of(photo: Photo, height: int, width: int, ruled: Orientation | None, report: ReadingReport) -> Frame:
    """The frame of a photo's annotations.

    The size that the export states decides; where it fits both frames (turned by 180 degrees, mirrored, square), the
    photo's own rule does, which is the tool's, or `ruled`.

    Args:
        photo: The photo.
        height: Of the upright photo, in pixels.
        width: Of the upright photo, in pixels.
        ruled: What the user says of all photos whose size does not decide; None leaves it to the tool.
        report: Is told of photos that are turned.

    Raises:
        BadAnnotationError: The stated size fits neither frame.
    """
    tag = _orientation(photo.file)
    turned = (width, height) if tag in _SWAPS_SIDES else (height, width)
    sizes: dict[Orientation, tuple[int, int]] = {"upright": (height, width), "stored": turned}
    rule = ruled or photo.orientation
    fitting = [kind for kind, size in sizes.items() if photo.size in (None, size)]
    if not fitting:
        stated = f"{photo.size[1]} x {photo.size[0]}" if photo.size else ""
        raise BadAnnotationError(
            "another size than the photo's", f"the photo has {width} x {height} pixels, its annotations {stated}"
        )
    chosen = rule if rule in fitting else fitting[0]
    if tag != 1:
        why = f"as {chosen}, by {'its size' if len(fitting) == 1 else 'the rule'}"
        report.decide("photo with an EXIF orientation", photo.identity, f"{tag}; annotations are read {why}")
    return Frame(*sizes[chosen], tag if chosen == "stored" else 1)


def _orientation(file: Path | bytes) -> int:
    """The EXIF orientation, 1 where there is none that turns."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            tag = image.getexif().get(_TAG, 1)
    except Exception:  # damaged headers make Pillow raise nearly anything; whether it is a photo is found elsewhere
        return 1
    return int(tag) if tag in _TURNS else 1
