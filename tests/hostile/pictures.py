"""Odd, broken and malicious image files, made by code: name -> (what makes the file, the statuses that are right).

422 is a file that cannot be opened, 413 one that is too large, 200 one that is odd but harmless. Nothing is stored:
every file is made anew, the same each time.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

Made = tuple[Callable[[], bytes], frozenset[int]]
BROKEN, LARGE, FINE = frozenset({422}), frozenset({413}), frozenset({200})
EITHER = frozenset({200, 422})  # what Pillow makes of it is Pillow's affair, and may change with its version
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


@cache
def photo(width: int = 96, height: int = 64) -> Image.Image:
    """A small picture with something in it; a click at (30, 30) is on it."""
    rows, columns = np.mgrid[:height, :width]
    disk = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 3) ** 2
    pixels = np.stack([columns * 2 % 256, rows * 3 % 256, np.where(disk, 250, 20)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


@cache
def saved(form: str, mode: str = "RGB", **options: object) -> bytes:
    """The small picture as a file."""
    out = io.BytesIO()
    photo().convert(mode).save(out, form, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes = b"", crc: int | None = None, length: int | None = None) -> bytes:
    """A chunk of a PNG file; sum and length may lie."""
    checked = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body) if length is None else length) + kind + body + struct.pack(">I", checked)


@cache
def zeros(count: int) -> bytes:
    """So many zero bytes, deflated; made piece by piece."""
    packer, out, piece = zlib.compressobj(9), [], bytes(1 << 20)
    while count > 0:
        out.append(packer.compress(piece[: min(count, len(piece))]))
        count -= len(piece)
    return b"".join(out) + packer.flush()


def png(
    width: int = 96,
    height: int = 64,
    depth: int = 8,
    colour: int = 2,
    *,
    rest: tuple[int, int, int] = (0, 0, 0),
    before: bytes = b"",
    data: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A PNG file of zeros; `rest` is compression, filter and interlace."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, *rest)
    if data is None:
        data = zeros((width * channels * depth + 7) // 8 * height + height)
    return PNG_HEAD + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + after + chunk(b"IEND")


def bmp(
    width: int = 8, height: int = 8, bits: int = 24, *, offset: int = 54, packing: int = 0, size: int = 40
) -> bytes:
    """A BMP file of zeros; every number may lie."""
    pixels = bytes(8 * 8 * 4)
    head = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, packing, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, offset) + head + pixels


def tiff(tags: list[tuple[int, int, int, int]], *, tail: bytes = bytes(4096), following: int = 0) -> bytes:
    """A TIFF file of (tag, type, count, value); pixels are zeros at 512."""
    body = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + struct.pack("<I", following)
    return head.ljust(512, b"\0") + tail


def gray_tiff(**changes: tuple[int, int, int]) -> bytes:
    """An 8 x 8 gray TIFF file with some tags changed, as `t256=(type, count, value)`."""
    tags = {256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 512), 277: (3, 1, 1), 278: (4, 1, 8), 279: (4, 1, 64)}
    tags |= {int(name[1:]): value for name, value in changes.items()}
    return tiff([(tag, *value) for tag, value in tags.items()])


def gif(width: int, height: int, *, left: int = 0, top: int = 0, shown: tuple[int, int] = (2, 2)) -> bytes:
    """A GIF file with one small frame on a canvas."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", left, top, *shown, 0) + b"\x02\x03\x84\x51\x05\x00"
    return head + frame + b";"


def frames(form: str, count: int) -> bytes:
    """The small picture, moving."""
    out = io.BytesIO()
    more = [photo().rotate(7 * n) for n in range(1, count)]
    photo().save(out, form, save_all=True, append_images=more)
    return out.getvalue()


def jpeg(width: int, height: int) -> bytes:
    """A JPEG file whose header lies about its size."""
    content = bytearray(saved("JPEG"))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def scans(count: int) -> bytes:
    """A progressive JPEG file that goes over the picture again and again."""
    content = saved("JPEG", progressive=True)
    starts = [n for n in range(len(content)) if content[n : n + 2] == b"\xff\xda"]
    cuts = [content.rfind(b"\xff\xc4", 0, start) for start in starts]
    return content[: cuts[2]] + content[cuts[1] : cuts[2]] * count + content[cuts[2] :]


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP file that says how large it is, and holds nothing."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jp2(width: int, height: int) -> bytes:
    """A bare JPEG 2000 code stream that says how large it is, and ends."""
    sizes = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, width, height, 0, 0, 3) + b"\7\1\1" * 3
    boxes = struct.pack(">I", 12) + b"jP  \r\n\x87\n" + struct.pack(">I", 20) + b"ftypjp2 \0\0\0\0jp2 "
    header = struct.pack(">I4sIIHBBBB", 22, b"ihdr", height, width, 3, 7, 7, 0, 0)
    colour = struct.pack(">I4sBBBI", 15, b"colr", 1, 0, 0, 16)
    boxes += struct.pack(">I4s", 8 + len(header) + len(colour), b"jp2h") + header + colour
    return boxes + struct.pack(">I4s", 0, b"jp2c") + b"\xff\x4f\xff\x51" + struct.pack(">H", len(sizes) + 2) + sizes


def archive(head: bytes = b"") -> bytes:
    """A ZIP file behind other content."""
    out = io.BytesIO(head)
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(zipfile.ZipInfo("run.sh"), "echo hello")
    return out.getvalue()


def changed(content: bytes, place: int, value: bytes) -> bytes:
    """Content with some bytes written over."""
    place = place % len(content)
    return content[:place] + value + content[place + len(value) :]


def cut(form: str, share: float) -> Callable[[], bytes]:
    """The first part of a good file."""
    return lambda: saved(form)[: int(len(saved(form)) * share)]


def _no_pictures() -> dict[str, Made]:
    """Files that are no picture of a kind that is opened."""
    plain = {
        "blank": b" ",
        "text": b"this is no picture\n" * 20,
        "html": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
        "svg bomb": b'<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
        "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n%%EOF",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd)(r)file\nshowpage\n",
        "psd": b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\x75\x30\0\0\x75\x30\0\x08\0\3" + bytes(64),
        "elf": b"\x7fELF\2\1\1" + bytes(200),
        "script": b"#!/bin/sh\nrm -rf /\n",
        "pickle": b"\x80\x04cos\nsystem\nX\x02\0\0\0id\x85R.",
        "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3" + bytes(40),
        "zeros": bytes(5000),
        "noise": np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes(),
        "xbm": b"#define im_width 99999\n#define im_height 99999\nstatic char im_bits[] = {\n0x00 };\n",
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "fits": b"SIMPLE  =                    T".ljust(2880),
        "avif": struct.pack(">I", 24) + b"ftypavif\0\0\0\0avifmif1" + bytes(60),
        "icns": b"icns" + struct.pack(">I", 0xFFFFFFF0) + bytes(60),
        "fli": struct.pack("<IHHHHHH", 999999, 0xAF11, 65535, 65535, 65535, 8, 0) + bytes(200),
        "path": b"/etc/passwd",
        "address": b"http://169.254.169.254/latest/meta-data",
    }
    made: dict[str, Made] = {name: (lambda content=content: content, BROKEN) for name, content in plain.items()}
    made["zip"] = archive, BROKEN
    for form in ("ICO", "TGA", "PCX", "DDS", "SGI", "PDF", "EPS", "SPIDER", "ICNS"):
        mode = "F" if form == "SPIDER" else "RGB"
        made[f"a good {form}"] = (lambda form=form, mode=mode: saved(form, mode)), BROKEN
    return made


def _cut_off() -> dict[str, Made]:
    made: dict[str, Made] = {}
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"):
        for percent in (3, 30, 60, 95):
            right = EITHER if percent == 95 or form == "JPEG2000" else BROKEN
            made[f"{form} cut at {percent}%"] = cut(form, percent / 100), right
    for length in (2, 3, 8, 12, 33, 40):
        made[f"PNG of {length} bytes"] = (lambda length=length: saved("PNG")[:length]), BROKEN
        made[f"JPEG of {length} bytes"] = (lambda length=length: saved("JPEG")[:length]), BROKEN
    made["PNG without its end"] = (lambda: saved("PNG")[:-12]), EITHER
    made["JPEG without its end"] = (lambda: saved("JPEG")[:-2]), EITHER
    return made


def _damaged_pngs() -> dict[str, Made]:
    wrong = struct.pack(">IIBBBBB", 96, 64, 8, 2, 0, 0, 0)
    many = chunk(b"tEXt", b"Comment\0x") * 20_000
    frame = struct.pack(">IIIIIHHBB", 1, 99999, 99999, 0, 0, 1, 10, 0, 0)
    return {
        "PNG with a wrong sum in its header": (lambda: changed(saved("PNG"), 29, b"\0\0\0\0"), BROKEN),
        "PNG with a wrong sum in its data": (lambda: changed(saved("PNG"), -14, b"\0\0"), EITHER),
        "PNG with broken data": (lambda: changed(saved("PNG"), 60, b"\xff" * 20), BROKEN),
        "PNG without size": (lambda: png(0, 0, data=zeros(1)), BROKEN),
        "PNG without height": (lambda: png(9, 0, data=zeros(1)), BROKEN),
        "PNG of negative width": (lambda: png(-5, 9, data=zeros(9)), LARGE | BROKEN),
        "PNG of depth 3": (lambda: png(depth=3), BROKEN),
        "PNG of depth 255": (lambda: png(depth=255, data=zeros(9)), BROKEN),
        "PNG of colour 7": (lambda: png(colour=7), BROKEN),
        "PNG of another compression": (lambda: png(rest=(9, 0, 0)), EITHER),
        "PNG of another filter": (lambda: png(rest=(0, 9, 0)), BROKEN),
        "PNG of interlace 9": (lambda: png(rest=(0, 0, 9)), EITHER),
        "PNG without data": (lambda: PNG_HEAD + chunk(b"IHDR", wrong) + chunk(b"IEND"), EITHER),
        "PNG with empty data": (lambda: png(data=b""), BROKEN),
        "PNG with too little data": (lambda: png(data=zeros(100)), EITHER),
        "PNG with too much data": (lambda: png(data=zeros(1 << 22)), EITHER),
        "PNG with two headers": (lambda: png(before=chunk(b"IHDR", wrong)), EITHER),
        "PNG with a header of 2 bytes": (lambda: PNG_HEAD + chunk(b"IHDR", b"\0\1") + chunk(b"IEND"), BROKEN),
        "PNG palette without palette": (lambda: png(colour=3), EITHER),
        "PNG palette with a bad index": (
            lambda: png(
                8, 8, colour=3, before=chunk(b"PLTE", b"\1\2\3"), data=zlib.compress((b"\0" + b"\xc8" * 8) * 8)
            ),
            EITHER,
        ),
        "PNG palette of 2 bytes": (lambda: png(8, 8, colour=3, before=chunk(b"PLTE", b"\1\2")), EITHER),
        "PNG with transparency of 300 bytes": (
            lambda: png(8, 8, colour=3, before=chunk(b"PLTE", b"\1\2\3") + chunk(b"tRNS", bytes(300))),
            EITHER,
        ),
        "PNG with a chunk of 2 GB": (lambda: png(before=chunk(b"tEXt", b"x", length=0x7FFFFFFF)), BROKEN),
        "PNG with a chunk of 4 GB": (lambda: png(before=chunk(b"tEXt", b"x", length=0xFFFFFFFF)), BROKEN),
        "PNG with a chunk of no name": (lambda: png(before=chunk(b"\0\0\0\0", b"x")), EITHER),
        "PNG with 20,000 notes": (lambda: png(before=many), EITHER),
        "PNG with a bad EXIF": (lambda: png(before=chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")), FINE),
        "PNG that moves, with a frame beyond it": (
            lambda: png(before=chunk(b"acTL", struct.pack(">II", 2, 0)), after=chunk(b"fcTL", frame)),
            EITHER,
        ),
        "PNG that moves 4,294,967,295 times": (
            lambda: png(before=chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0))),
            EITHER,
        ),
        "PNG that moves": (lambda: frames("PNG", 4), FINE),
    }


def _bombs() -> dict[str, Made]:
    """Small files that would be large in memory."""
    huge = 1 << 28
    return {
        "bomb: PNG of 900 megapixels": (lambda: png(30_000, 30_000, depth=1, colour=0), LARGE),
        "bomb: PNG of 120 megapixels": (lambda: png(12_000, 10_000, depth=1, colour=0), LARGE),
        "bomb: PNG one pixel high": (lambda: png(2_000_000_000, 1, depth=1, colour=0, data=zeros(99)), LARGE),
        "bomb: PNG of the largest size": (lambda: png(0x7FFFFFFF, 0x7FFFFFFF, data=zeros(99)), LARGE | BROKEN),
        "bomb: colour profile of 256 MB": (lambda: png(before=chunk(b"iCCP", b"p\0\0" + zeros(huge))), EITHER),
        "bomb: note of 256 MB": (lambda: png(before=chunk(b"zTXt", b"n\0\0" + zeros(huge))), EITHER),
        "bomb: international note of 256 MB": (
            lambda: png(before=chunk(b"iTXt", b"n\0\1\0\0\0" + zeros(huge))),
            EITHER,
        ),
        "bomb: 100 notes of 900 KB": (lambda: png(before=chunk(b"zTXt", b"n\0\0" + zeros(900_000)) * 100), EITHER),
        "bomb: note of 256 MB behind the data": (lambda: png(after=chunk(b"zTXt", b"n\0\0" + zeros(huge))), EITHER),
        "bomb: PNG with data of 256 MB": (lambda: png(data=zeros(huge)), EITHER),
        "bomb: GIF canvas of 4 gigapixels": (lambda: gif(65535, 65535), LARGE),
        "bomb: GIF frame far off its canvas": (lambda: gif(8, 8, left=60000, top=60000), EITHER | LARGE),
        "bomb: GIF frame larger than its canvas": (lambda: gif(8, 8, shown=(65535, 65535)), EITHER | LARGE),
        "bomb: JPEG of 4 gigapixels": (lambda: jpeg(65535, 65535), LARGE),
        "bomb: JPEG of 150 megapixels": (lambda: jpeg(15_000, 10_000), LARGE),
        "bomb: JPEG of 5,000 scans": (lambda: scans(5000), LARGE),
        "bomb: TIFF of 4 gigapixels": (lambda: gray_tiff(t256=(4, 1, 65535), t257=(4, 1, 65535)), LARGE),
        "bomb: TIFF of the largest size": (lambda: gray_tiff(t256=(4, 1, 2**32 - 1), t257=(4, 1, 2**32 - 1)), LARGE),
        "bomb: TIFF with 4 billion strips": (lambda: gray_tiff(t273=(4, 2**32 - 1, 512)), EITHER | LARGE),
        "bomb: TIFF with a strip of 4 GB": (lambda: gray_tiff(t279=(4, 1, 2**32 - 1)), EITHER | LARGE),
        "bomb: BMP of 4 gigapixels": (lambda: bmp(65536, 65536), LARGE),
        "bomb: BMP of the largest size": (lambda: bmp(2**31 - 1, 2**31 - 1), LARGE),
        "bomb: WebP canvas of 281 terapixels": (lambda: webp_canvas(1 << 24, 1 << 24), BROKEN | LARGE),
        "bomb: WebP canvas of 256 megapixels": (lambda: webp_canvas(16384, 16384), BROKEN | LARGE),
        "bomb: JPEG 2000 of 4 gigapixels": (lambda: jp2(65535, 65535), LARGE | BROKEN),
        "bomb: PPM of 9 terapixels": (lambda: b"P6 3000000 3000000 255\n" + bytes(99), LARGE),
        "bomb: PBM of 900 megapixels": (lambda: b"P4 30000 30000\n" + bytes(99), LARGE),
    }


def _other_formats() -> dict[str, Made]:
    looped = struct.unpack("<I", gray_tiff()[4:8])[0]
    return {
        "JPEG without size": (lambda: jpeg(0, 0), BROKEN),
        "JPEG of noise": (lambda: saved("JPEG")[:200] + np.random.default_rng(1).bytes(900), EITHER),
        "JPEG of CMYK": (lambda: saved("JPEG", "CMYK"), FINE),
        "JPEG with a bad EXIF": (
            lambda: b"\xff\xd8\xff\xe1\0\x16Exif\0\0MM\0*\xff\xff\xff\xff\0\0\0\0" + saved("JPEG")[2:],
            FINE,
        ),
        "JPEG with a marker that does not end": (lambda: b"\xff\xd8\xff\xe1\xff\xff" + saved("JPEG")[2:60], BROKEN),
        "GIF of 40 frames": (lambda: frames("GIF", 40), FINE),
        "GIF without frames": (lambda: b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";", EITHER),
        "GIF without size": (lambda: gif(0, 0, shown=(0, 0)), BROKEN),
        "GIF of noise": (lambda: gif(9, 9)[:-8] + np.random.default_rng(2).bytes(300), EITHER),
        "BMP upside down": (lambda: bmp(8, -8), FINE),
        "BMP of negative width": (lambda: bmp(-8, 8), EITHER | LARGE),
        "BMP of the most negative height": (lambda: bmp(8, -(2**31)), EITHER | LARGE),
        "BMP of 3 bits": (lambda: bmp(bits=3), BROKEN),
        "BMP of 65535 bits": (lambda: bmp(bits=65535), BROKEN),
        "BMP packed in a way unknown": (lambda: bmp(packing=99), BROKEN),
        "BMP run lengths of zeros": (lambda: bmp(bits=8, packing=1), EITHER),
        "BMP with its pixels beyond the file": (lambda: bmp(offset=2**32 - 1), EITHER),
        "BMP with a header of 4 GB": (lambda: bmp(size=2**32 - 1), BROKEN),
        "BMP without size": (lambda: bmp(0, 0), BROKEN),
        "TIFF without size": (lambda: gray_tiff(t256=(4, 1, 0), t257=(4, 1, 0)), BROKEN),
        "TIFF without tags": (lambda: tiff([]), BROKEN),
        "TIFF with 65535 bits": (lambda: gray_tiff(t258=(3, 1, 65535)), BROKEN),
        "TIFF with 65535 samples": (lambda: gray_tiff(t277=(3, 1, 65535)), BROKEN),
        "TIFF packed in a way unknown": (lambda: gray_tiff(t259=(3, 1, 60000)), BROKEN),
        "TIFF of deflated zeros": (lambda: gray_tiff(t259=(3, 1, 8)), BROKEN),
        "TIFF of JPEG that is none": (lambda: gray_tiff(t259=(3, 1, 7)), BROKEN),
        "TIFF with its strip beyond the file": (lambda: gray_tiff(t273=(4, 1, 2**31)), BROKEN),
        "TIFF with a tag of a type unknown": (lambda: gray_tiff(t700=(999, 9, 9)), EITHER),
        "TIFF with a tag of 4 GB": (lambda: gray_tiff(t700=(1, 2**32 - 1, 8)), EITHER),
        "TIFF with tiles of no size": (lambda: gray_tiff(t322=(4, 1, 0), t323=(4, 1, 0), t324=(4, 1, 512)), EITHER),
        "TIFF whose directories go round": (
            lambda: tiff([(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (273, 4, 1, 512)], following=looped),
            EITHER,
        ),
        "TIFF with turned EXIF of 99": (lambda: gray_tiff(t274=(3, 1, 99)), FINE),
        "TIFF of 16 bits": (
            lambda: _array(np.arange(6144, dtype=np.uint16).reshape(64, 96), "TIFF"),
            FINE,
        ),
        "TIFF of values that are no numbers": (lambda: _array(np.full((64, 96), np.nan, np.float32), "TIFF"), FINE),
        "TIFF of endless values": (lambda: _array(np.full((64, 96), np.inf, np.float32), "TIFF"), FINE),
        "TIFF of the largest numbers": (
            lambda: _array(np.tile(np.array([[3.4e38, -3.4e38]], np.float32), (64, 48)), "TIFF"),
            FINE,
        ),
        "PNG of 16 bits": (lambda: _array(np.arange(6144, dtype=np.uint16).reshape(64, 96) * 10, "PNG"), FINE),
        "PNG of one bit": (lambda: saved("PNG", "1"), FINE),
        "PNG of gray and alpha": (lambda: saved("PNG", "LA"), FINE),
        "PNG of a palette": (lambda: saved("PNG", "P"), FINE),
        "WebP that moves": (lambda: frames("WEBP", 3), FINE),
        "WebP that lies about its length": (lambda: changed(saved("WEBP"), 4, b"\xff\xff\xff\xff"), EITHER),
        "WebP with nothing in it": (lambda: b"RIFF\x04\0\0\0WEBP", BROKEN),
        "PPM of negative size": (lambda: b"P6 -5 -5 255\n" + bytes(75), BROKEN),
        "PPM without size": (lambda: b"P6 0 0 255\n", BROKEN),
        "PPM of values to 0": (lambda: b"P6 5 5 0\n" + bytes(75), BROKEN),
        "PPM of values to 99999": (lambda: b"P6 5 5 99999\n" + bytes(75), BROKEN),
        "PPM whose header does not end": (lambda: b"P6 " + b"#" * 100_000, BROKEN),
        "PPM with a number of 5,000 digits": (lambda: b"P6 " + b"9" * 5000 + b" 5 255\n", BROKEN),
        "PFM of no numbers": (lambda: b"Pf 5 5 nan\n" + bytes(100), BROKEN),
        "a PNG that is a ZIP too": (lambda: archive(saved("PNG")), FINE),
        "a JPEG that is a page too": (
            lambda: b"\xff\xd8\xff\xfe\0\x1c<script>alert(1)</script>\n" + saved("JPEG")[2:],
            FINE,
        ),
        "a GIF that is a script too": (lambda: b"GIF89a/*" + bytes(6) + b"*/=1;alert(1)", EITHER),
        "a PNG behind a line of text": (lambda: b"hello\n" + saved("PNG"), BROKEN),
        "a JPEG with a file behind it": (lambda: saved("JPEG") + b"#!/bin/sh\nid\n", FINE),
    }


def _array(pixels: np.ndarray, form: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def all_pictures() -> dict[str, Made]:
    """All of them by name."""
    return _no_pictures() | _cut_off() | _damaged_pngs() | _bombs() | _other_formats()
