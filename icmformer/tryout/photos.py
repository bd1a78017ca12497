"""The photos that the page shows, by number: files of this machine, and what was dropped on the page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from icmformer.errors import ImageError
from icmformer.images.reading import FORMATS, LoadedImage
from icmformer.inference.cache import ByteLRU
from icmformer.serving.errors import RequestError, TooLargeError
from icmformer.types import RGBImage

MOST_FILE = 100 << 20
"""Bytes of a file dropped on the page."""
MOST_DROPPED = 512 << 20
"""Bytes of all files dropped on the page: they are kept in memory."""
SIDE = 2048
"""Longest side in pixels of what is shown of a photo at a time."""
SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)
"""Of the files in a folder, those that are photos."""
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_LONGEST_NAME = 200


class UnknownPhotoError(RequestError):
    """A number that no photo has."""


@dataclass(frozen=True)
class Photo:
    """A photo.

    Attributes:
        name: For people.
        source: Where its file is, or the file's bytes.
    """

    name: str
    source: Path | bytes


class Photos:
    """Opens photos by number, and keeps some of them decoded. Safe to call from several threads.

    Args:
        paths: Files; the first is number 0.
        max_pixels: Largest photo opened.
        kept: Bytes of decoded photos to keep; the one asked for last is kept in any case.
    """

    def __init__(self, paths: Iterable[Path], max_pixels: int, kept: int) -> None:
        self._photos = [Photo(path.name, path) for path in paths]
        self._max_pixels = max_pixels
        self._decoded: ByteLRU[LoadedImage] = ByteLRU(kept)
        self._last: tuple[int, LoadedImage] | None = None
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Of all photos, in the order of their numbers."""
        return [photo.name for photo in self._photos]

    def name(self, number: int) -> str:
        """Of one photo.

        Raises:
            UnknownPhotoError: There is none with this number.
        """
        return self._photo(number).name

    def image(self, number: int) -> LoadedImage:
        """A photo's pixels.

        Raises:
            UnknownPhotoError: There is none with this number.
            ImageError: It cannot be opened; the text names it, without its folder.
        """
        photo = self._photo(number)
        with self._lock:  # so that nothing is decoded twice at a time
            if self._last and self._last[0] == number:
                return self._last[1]
            image = self._decoded.get(number) or self._open(photo)
            self._keep(number, image)
            return image

    def add(self, name: str, content: bytes) -> int:
        """Takes a file dropped on the page.

        Args:
            name: As the page has it.
            content: The file's bytes.

        Returns:
            Its number.

        Raises:
            ImageError: It cannot be opened.
            TooLargeError: There is no room for it beside those dropped before.
        """
        shown = "".join(c for c in name if c.isprintable())[-_LONGEST_NAME:].strip() or "photo"
        photo = Photo(shown, content)
        with self._lock:
            held = sum(len(other.source) for other in self._photos if isinstance(other.source, bytes))
            if held + len(content) > MOST_DROPPED:
                raise TooLargeError(
                    f"the photos dropped here take more than {MOST_DROPPED >> 20} MB together; start again with their "
                    "names: icmformer try PHOTO ..."
                )
            image = self._open(photo)
            self._photos.append(photo)
            self._keep(len(self._photos) - 1, image)
            return len(self._photos) - 1

    def _photo(self, number: int) -> Photo:
        if not 0 <= number < len(self._photos):
            raise UnknownPhotoError(f"there is no photo number {number}; reload the page")
        return self._photos[number]

    def _keep(self, number: int, image: LoadedImage) -> None:
        self._decoded.put(number, image)
        self._last = number, image

    def _open(self, photo: Photo) -> LoadedImage:
        try:
            content = photo.source if isinstance(photo.source, bytes) else photo.source.read_bytes()
        except OSError as error:
            raise ImageError(f"{photo.name} cannot be read: {error.strerror}") from error
        try:
            return LoadedImage.from_bytes(content, self._max_pixels)
        except ImageError as error:
            raise type(error)(f"{photo.name}: {error}") from error


@dataclass(frozen=True)
class Part:
    """A rectangle of a photo, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def picture(pixels: RGBImage, part: Part | None = None) -> bytes:
    """A photo, or a part of it, as a JPEG file of at most `SIDE` pixels a side.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        part: None for all of it.

    Raises:
        RequestError: A part that does not lie within the photo.
    """
    height, width = pixels.shape[:2]
    part = part or Part(0, 0, width, height)
    across = part.left >= 0 and part.width > 0 and part.left + part.width <= width
    if not (across and part.top >= 0 and part.height > 0 and part.top + part.height <= height):
        raise RequestError(f"this part does not lie within the photo of {width} x {height} pixels")
    shown: cv2.typing.MatLike = pixels[part.top : part.top + part.height, part.left : part.left + part.width]
    scale = SIDE / max(part.width, part.height)
    if scale < 1:
        size = max(1, round(part.width * scale)), max(1, round(part.height * scale))
        shown = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(shown[..., ::-1]), _JPEG)
    if not done:
        raise ImageError("the photo cannot be shown: encoding it failed")
    return data.tobytes()


def find_photos(given: Iterable[Path]) -> list[Path]:
    """The photos among files and folders; those of a folder by name, numbers in names by their value.

    Raises:
        ImageError: A path that is not there, or a folder without photos. Whether a file is a photo is seen when it is
            opened.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()]
            if not inside:
                raise ImageError(f"there are no photos in {path} ({', '.join(FORMATS)})")
            found += sorted(inside, key=_by_name)
        elif path.exists():
            found.append(path)
        else:
            raise ImageError(f"cannot read the image {path}: there is no such file")
    return found


def _by_name(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
