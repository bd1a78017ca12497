"""Image files to RGB uint8 arrays."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from icmformer.errors import ConfigError, ImageError, ImageTooLargeError, TruncatedImageError
from icmformer.images.display import ShownBy, no_data_value, to_rgb
from icmformer.types import RGBImage

Image.init()  # registers the formats that Pillow does not know from the start
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
    if name in Image.OPEN  # Pillow before 11.3 has no AVIF
)
"""Formats opened, by Pillow's names. Others (PostScript and the like) are refused unread."""

DEFAULT_MAX_PIXELS = 100_000_000
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", *_TIFF, b"GIF8", b"BM", b"\0\0\0\x0cjP  ")
_RESCUE = """
import io, sys
from PIL import Image, ImageFile, ImageOps
Image.init()
ImageFile.LOAD_TRUNCATED_IMAGES = True
image = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=sys.argv[1:])
image.load()
out = io.BytesIO()
tags = {42113: value for value in [getattr(image, "tag_v2", {}).get(42113)] if isinstance(value, str)}  # no-data value
ImageOps.exif_transpose(image).save(out, "TIFF", tiffinfo=tags)
sys.stdout.buffer.write(out.getvalue())
"""
_ORIENTATION = 0x0112
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")  # of JPEG, with a length after it, or the end of the image
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_MOST_SCANS = 200  # of a JPEG file; progressive ones of cameras and tools have some ten


class TruncatedImageWarning(UserWarning):
    """An image was opened although its file ends early or is damaged."""


@dataclass(frozen=True)
class LoadedImage:
    """An image with the name of its content, so that caches need not read the pixels again.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, read-only.
        digest: Equal only for equal content; images are equal where it is.
    """

    pixels: RGBImage = field(compare=False)
    digest: bytes

    @property
    def nbytes(self) -> int:
        """Bytes held, for bounded caches."""
        return self.pixels.nbytes

    @staticmethod
    def from_array(pixels: NDArray[np.uint8]) -> LoadedImage:
        """Takes an RGB array, of which it keeps a copy.

        Args:
            pixels: (H, W, 3) uint8 RGB.

        Raises:
            ImageError: Not (H, W, 3) uint8, or without pixels.
        """
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ImageError(f"an image is a uint8 array (H, W, 3) in RGB order, got {got}")
        if pixels.size == 0:
            raise ImageError("the image has no pixels")
        content = np.array(pixels, order="C")  # a copy: the caller may go on writing to its own
        content.flags.writeable = False
        digest = hashlib.blake2b(content.data, digest_size=16, person=b"pixels")
        digest.update(repr(content.shape).encode())
        return LoadedImage(content, digest.digest())

    @staticmethod
    def from_pil(image: Image.Image, max_pixels: int = DEFAULT_MAX_PIXELS, shown_by: ShownBy = "plain") -> LoadedImage:
        """Takes a Pillow image, as `decode_image` takes a file's.

        Args:
            image: Of any mode; it need not be loaded.
            max_pixels: Largest image taken, in pixels.
            shown_by: As for `decode_image`.

        Raises:
            ImageTooLargeError: More than `max_pixels`.
            TruncatedImageError: A file behind it that ends early.
            ImageError: Not an image of Pillow.
        """
        if not isinstance(image, Image.Image):
            raise ImageError(f"expected an image of Pillow, got {type(image).__name__}")
        check_size(image.size, max_pixels)
        kind, no_data = image.format, no_data_value(image)
        return LoadedImage.from_array(to_rgb(load_pixels(image), shown_by, kind, no_data))

    @staticmethod
    def from_bytes(
        data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, allow_truncated: bool = False, shown_by: ShownBy = "plain"
    ) -> LoadedImage:
        """Decodes an image file; arguments and errors are those of `decode_image`.

        The digest is the file's, and that of how it is shown.
        """
        pixels = decode_image(data, max_pixels, allow_truncated, shown_by)
        digest = content_digest(data, shown_by)
        pixels.flags.writeable = False
        return LoadedImage(pixels, digest)


def content_digest(data: bytes, shown_by: ShownBy = "plain") -> bytes:
    """Names the content of an image file, and how it is shown."""
    salt = b"" if shown_by == "plain" else shown_by.encode()
    return hashlib.blake2b(data, digest_size=16, person=b"file", salt=salt).digest()


def decode_image(
    data: bytes,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    allow_truncated: bool = False,
    shown_by: ShownBy = "plain",
) -> RGBImage:
    """Decodes an image file.

    EXIF rotation is applied; CMYK, Lab, palette and gray become RGB; of animations the first frame is taken. What
    becomes of transparency and of more than 8 bits, `shown_by` says: a mask must be of what the annotator sees.

    Args:
        data: The file's bytes.
        max_pixels: Largest image opened, in pixels (100 million); checked on the header, before decoding.
        allow_truncated: Open a damaged file as far as it goes, with a `TruncatedImageWarning`.
        shown_by: As which tool shows it: `plain` (transparency over white, 16 bits scaled), `cvat` or `label studio`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageTooLargeError: More than `max_pixels`.
        TruncatedImageError: The file ends early or its data is broken.
        ImageError: Not an image, or of a format that is not opened.
        ConfigError: Nobody shows images by that name.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ImageError(f"an image file is read from its bytes, got {type(data).__name__}")
    if not isinstance(shown_by, str) or shown_by not in get_args(ShownBy):
        raise ConfigError(f"images are shown by {', '.join(get_args(ShownBy))}, not {shown_by!r}")
    data = bytes(data)
    try:
        return _decode(data, max_pixels, shown_by)
    except TruncatedImageError as error:
        if allow_truncated:
            return _decode_what_there_is(data, max_pixels, shown_by, error)
        raise


def _decode(data: bytes, max_pixels: int, shown_by: ShownBy) -> RGBImage:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(image.size, max_pixels)
            if image.format in ("JPEG", "MPO"):
                _check_scans(data)
            no_data = no_data_value(image)
            return to_rgb(load_pixels(image), shown_by, image.format, no_data)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image is far too large: {error}") from error
    except UnidentifiedImageError as error:
        if data.startswith(_TIFF) and (kind := _kind_of_tiff(data)):
            raise ImageError(
                f"a TIFF {kind} is not opened; store it as PNG, or as a TIFF of one or three bands of 8 bits"
            ) from error
        if _starts_like_an_image(data):
            raise TruncatedImageError(f"the image file ends early or is damaged ({len(data):,} bytes)") from error
        known = ", ".join(FORMATS)
        raise ImageError(f"these {len(data):,} bytes are not an image of a known format ({known})") from error
    except MemoryError as error:
        raise ImageTooLargeError("the image does not fit into memory") from error
    except Exception as error:  # hostile files make Pillow raise nearly anything
        if _starts_like_an_image(data):
            raise TruncatedImageError(f"the image file ends early or is damaged: {error}") from error
        raise ImageError(f"the image cannot be read: {type(error).__name__}: {error}") from error


def _kind_of_tiff(data: bytes) -> str:
    """What a TIFF that Pillow cannot open says of itself; empty where it is too damaged to say."""
    try:
        file = io.BytesIO(data)
        directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if b"+" in data[2:4] else 8))
        file.seek(directory.next)
        directory.load(file)
        bands, bits = int(directory.get(277, 1)), directory.get(258, (1,))
        kinds = directory.get(339, (1,))
        width, height = int(directory[256]), int(directory[257])
        _ = directory[273] if 273 in directory else directory[324]  # where the pixels are: near the end
    except Exception:  # damaged directories make Pillow raise nearly anything
        return ""
    number = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}.get(kinds[0], "")
    of_bits = f"{bits[0]} {number} bits" if number else f"{bits[0]} bits"
    return f"of {width} x {height} pixels with {bands} {'band' if bands == 1 else 'bands'} of {of_bits}"


def read_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, allow_truncated: bool = False) -> LoadedImage:
    """Opens an image file from disk; errors as in `decode_image`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the image {path}: {error.strerror}") from error
    try:
        return LoadedImage.from_bytes(data, max_pixels, allow_truncated)
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error


def _starts_like_an_image(data: bytes) -> bool:
    """Whether the first bytes are those of a format that is opened."""
    return (
        data.startswith(_SIGNATURES)
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or (data[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" in FORMATS)
    )


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raises `ImageTooLargeError` for (width, height) of more pixels than that, `ImageError` for none."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"the image has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,} "
            "(ICMFORMER_MAX_PIXELS)"
        )


def load_pixels(image: Image.Image) -> Image.Image:
    """Decodes an opened image and turns it as its EXIF data say.

    Raises:
        TruncatedImageError: The file ends early or is damaged.
    """
    try:
        image.load()
    except (OSError, EOFError, SyntaxError) as error:
        raise TruncatedImageError(f"the image file ends early or is damaged: {error}") from error
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image  # a copy where there is nothing to turn
    except Exception:  # damaged EXIF data: the pixels are still good
        return image


def _check_scans(data: bytes) -> None:
    """Each scan of a progressive JPEG goes over the whole image, and may take but a few bytes of the file."""
    scans, position = 0, 2
    while found := _MARKER.search(data, position):
        marker, position = found[1], found.end()
        if marker == _END_OF_IMAGE:  # what comes after, such as a phone's short film, is not read
            return
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > _MOST_SCANS:
                raise ImageTooLargeError(
                    f"the JPEG file has more than {_MOST_SCANS} scans; save it again as a baseline JPEG or PNG"
                )
        position += int.from_bytes(data[position : position + 2], "big")  # the segment; a scan's own data follow


def _decode_what_there_is(data: bytes, max_pixels: int, shown_by: ShownBy, error: TruncatedImageError) -> RGBImage:
    """Pillow's tolerant mode is a switch for the whole process, so it is thrown in a process of its own."""
    command = [sys.executable, "-c", _RESCUE, *FORMATS]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=True)
    except subprocess.SubprocessError:
        raise TruncatedImageError(f"{error}; nothing of it can be recovered") from error
    warnings.warn(f"opened as far as it could be decoded: {error}", TruncatedImageWarning, stacklevel=3)
    return decode_image(done.stdout, max_pixels, shown_by=shown_by)
