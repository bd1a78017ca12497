"""Pictures that are not plain RGB, as each tool shows them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from icmformer import LoadedImage, decode_image
from icmformer.errors import ImageError, TruncatedImageError
from icmformer.images.reading import TruncatedImageWarning, content_digest

CAT = data.chelsea()
ALPHA = np.dstack([CAT, np.linspace(0, 255, CAT.shape[1]).astype(np.uint8) * np.ones((CAT.shape[0], 1), np.uint8)])
SIXTEEN = CAT[..., 0].astype(np.uint16) * 17 + 300


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_cvat_drops_alpha(kind):
    content = encoded(Image.fromarray(ALPHA), kind, **{"lossless": True, "exact": True} if kind == "WEBP" else {})
    np.testing.assert_array_equal(decode_image(content, shown_by="cvat"), CAT)


def test_cvat_drops_alpha_of_gray_and_palettes():
    gray = Image.fromarray(ALPHA).convert("LA")
    expected = np.asarray(gray.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encoded(gray), shown_by="cvat"), expected)
    palette = Image.fromarray(CAT).quantize(16)
    content = encoded(palette, transparency=3)
    np.testing.assert_array_equal(decode_image(content, shown_by="cvat"), np.asarray(palette.convert("RGB")))
    assert not np.array_equal(decode_image(content), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_cvat_equalises_sixteen_bits(kind):
    """Hot pixels, which make all else black where values are scaled alone, do little."""
    values = SIXTEEN.copy()
    values[5, 5:9] = 65535
    content = encoded(Image.fromarray(values), kind)
    scaled = (values.astype(np.float64) - values.min()) * (255 / (65535 - values.min()))
    expected = np.asarray(ImageOps.equalize(Image.fromarray(scaled.astype(np.uint8))))
    shown = decode_image(content, shown_by="cvat")
    np.testing.assert_array_equal(shown[..., 1], expected)
    assert np.ptp(np.percentile(shown, (5, 95))) > 200
    assert np.percentile(decode_image(content), 95) < 30


def test_cvat_cuts_sixteen_bits_that_come_big_end_first():
    """As its own conversion does: nearly all of it is white then."""
    content = encoded(Image.frombytes("I;16B", CAT.shape[1::-1], SIXTEEN.astype(">u2").tobytes()), "TIFF")
    np.testing.assert_array_equal(decode_image(content, shown_by="cvat"), np.full_like(CAT, 255))
    small = SIXTEEN // 30
    content = encoded(Image.frombytes("I;16B", CAT.shape[1::-1], small.astype(">u2").tobytes()), "TIFF")
    np.testing.assert_array_equal(decode_image(content, shown_by="cvat")[..., 0], small)


def test_cvat_scales_whole_numbers_of_32_bits_and_cuts_floats():
    values = SIXTEEN.astype(np.int32) * 5
    expected = (values * (256 / values.max())).clip(0, 255).astype(np.uint8)
    shown = decode_image(encoded(Image.fromarray(values), "TIFF"), shown_by="cvat")
    np.testing.assert_array_equal(shown[..., 0], expected)
    floats = np.array([[-5.0, 0.5, 17.9, 255.0, 300.0]], np.float32)
    shown = decode_image(encoded(Image.fromarray(floats), "TIFF"), shown_by="cvat")
    assert shown[0, :, 2].tolist() == [0, 0, 17, 255, 255]
    assert not decode_image(encoded(Image.fromarray(values * 0), "TIFF"), shown_by="cvat").any()


# What a browser showed on Label Studio's page, read from a screenshot: colour and alpha -> colour.
SEEN = [
    ((0, 0, 0, 64), (189, 189, 189)),
    ((0, 0, 0, 128), (126, 126, 126)),
    ((200, 40, 40, 128), (226, 146, 146)),
    ((9, 90, 200, 0), (253, 253, 252)),
    ((9, 90, 200, 255), (9, 90, 200)),
]


@pytest.mark.parametrize(("stored", "seen"), SEEN)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_label_studio_lays_alpha_over_its_pages_ground(stored, seen, kind):
    options = {"PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}[kind]
    content = encoded(Image.new("RGBA", (32, 32), stored), kind, **options)
    shown = decode_image(content, shown_by="label studio")
    np.testing.assert_allclose(shown[16, 16].astype(int), seen, atol=2 if kind == "AVIF" else 1)


def test_label_studios_page_ignores_the_alpha_of_a_bmp():
    content = encoded(Image.fromarray(ALPHA), "BMP")
    np.testing.assert_array_equal(decode_image(content, shown_by="label studio"), CAT)


def test_label_studio_shows_the_upper_8_of_16_bits():
    shown = decode_image(encoded(Image.fromarray(SIXTEEN)), shown_by="label studio")
    np.testing.assert_array_equal(shown, np.repeat((SIXTEEN >> 8).astype(np.uint8)[..., None], 3, 2))
    edges = np.array([[0, 255, 256, 511, 4351, 65279, 65280, 65535]], np.uint16)
    shown = decode_image(encoded(Image.fromarray(edges)), shown_by="label studio")
    assert shown[0, :, 0].tolist() == [0, 0, 1, 1, 16, 254, 255, 255]


def test_plain_pictures_are_the_same_everywhere_and_their_digests_are_not():
    content = encoded(Image.fromarray(CAT))
    for tool in ("plain", "cvat", "label studio"):
        np.testing.assert_array_equal(decode_image(content, shown_by=tool), CAT)
    digests = {content_digest(content, tool) for tool in ("plain", "cvat", "label studio")}
    assert len(digests) == 3  # one cache of features may hold them all
    assert LoadedImage.from_bytes(content).digest == content_digest(content)


def test_avif_opens():
    shown = decode_image(encoded(Image.fromarray(CAT), "AVIF", quality=90))
    assert np.abs(shown.astype(int) - CAT).mean() < 4
    with pytest.raises(TruncatedImageError):
        decode_image(encoded(Image.fromarray(CAT), "AVIF", quality=90)[:3000])


def tiff(bands, bits, kind, order="<"):
    """A TIFF of 2 x 2 pixels that is right in all but what Pillow can read."""
    size = bands * bits // 8 * 4
    tags = [(256, 3, 2), (257, 3, 2), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 0)]
    tags += [(277, 3, bands), (278, 3, 2), (279, 4, size), (339, 3, kind)]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, of, value in tags:
        packed = struct.pack(order + "HH", value, 0) if of == 3 else struct.pack(order + "I", value or start)
        entries += struct.pack(order + "HHI", tag, of, 1) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + bytes(size)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("bands", "bits", "kind", "text"),
    [
        (1, 64, 3, "1 band of 64 floating-point bits"),
        (7, 16, 1, "7 bands of 16 bits"),
        (1, 64, 2, "1 band of 64 signed bits"),
    ],
)
def test_a_tiff_that_cannot_be_opened_is_not_called_damaged(bands, bits, kind, text, order):
    with pytest.raises(ImageError, match=f"a TIFF of 2 x 2 pixels with {text} is not opened") as error:
        decode_image(tiff(bands, bits, kind, order))
    assert not isinstance(error.value, TruncatedImageError)
    with pytest.raises(TruncatedImageError):
        decode_image(tiff(bands, bits, kind, order)[:60])


def test_a_float_tiff_opens():
    values = np.linspace(-3, 9, 12, dtype=np.float32).reshape(3, 4)
    shown = decode_image(encoded(Image.fromarray(values), "TIFF"))
    expected = np.rint((values.astype(np.float64) + 3) / 12 * 255)
    np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, 2))


def geotiff(values, no_data):
    return encoded(Image.fromarray(values), "TIFF", tiffinfo={42113: no_data})


HEIGHTS = 1000 + 300 * np.random.default_rng(0).random((40, 50))  # of land: far from 0
HOLES = np.zeros(HEIGHTS.shape, bool)
HOLES[:10, 5:30] = True


@pytest.mark.parametrize(
    ("kind", "stored", "text"),
    [
        (np.float32, -9999, "-9999"),
        (np.float32, -9999, " -9999.0 "),
        (np.float32, -3.4028234663852886e38, "-3.40282346638528859812e+38"),
        (np.float32, -3.4028234663852886e38, "-1.7976931348623157e+308"),  # of doubles, on pixels that are none
        (np.float32, 0.1, "0.1"),  # has no end in binary
        (np.float32, 0, "0"),
        (np.float32, np.nan, "nan"),
        (np.float32, np.nan, "-9999"),
        (np.float32, np.inf, "-9999"),
        (np.float32, -np.inf, "what"),
        (np.int32, -9999, "-9999"),
        (np.int32, -32768, "-32768"),
        (np.uint32, 2**32 - 1, "4294967295"),
        (np.uint16, 65535, "65535"),
        (np.uint16, 0, "0"),
        (np.uint16, 0, "0.0"),
    ],
)
def test_what_a_tiff_says_is_no_data_is_black_and_does_not_count(kind, stored, text):
    values = HEIGHTS.astype(kind)
    low, high = values[~HOLES].min(), values[~HOLES].max()
    expected = np.rint((values.astype(np.float64) - low) / (float(high) - float(low)) * 255)
    expected[HOLES] = 0
    values[HOLES] = kind(stored)
    image = Image.frombytes("I", values.shape[::-1], values.tobytes()) if kind is np.uint32 else Image.fromarray(values)
    content = encoded(image, "TIFF", tiffinfo={42113: text})
    for tool in ("plain", "label studio"):  # no browser but Safari shows TIFF, so that scaling it is ours
        shown = decode_image(content, shown_by=tool)
        np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, 2))
    np.testing.assert_array_equal(LoadedImage.from_pil(Image.open(io.BytesIO(content))).pixels, shown)


def test_no_data_in_a_turned_or_a_damaged_tiff():
    values = HEIGHTS.astype(np.float32)
    values[HOLES] = -9999
    exif = Image.Exif()
    exif[0x0112], exif[42113] = 6, "-9999"
    upright = decode_image(geotiff(values, "-9999"))
    assert 100 < upright[~HOLES].mean() < 155
    np.testing.assert_array_equal(
        decode_image(encoded(Image.fromarray(values), "TIFF", exif=exif)), np.rot90(upright, -1)
    )
    content = geotiff(values, "-9999")
    with pytest.warns(TruncatedImageWarning):
        shown = decode_image(content[:-100], allow_truncated=True)  # Pillow makes the lost pixels 0
    land = values[:39].astype(np.float64)[~HOLES[:39]]
    np.testing.assert_array_equal(shown[:39][~HOLES[:39]][:, 0], np.rint(land / values.max() * 255))


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_an_image_of_no_data_alone_is_black(kind):
    assert not decode_image(geotiff(np.full((4, 5), 7, kind), "7")).any()
    assert not decode_image(encoded(Image.fromarray(np.full((4, 5), np.nan, np.float32)), "TIFF")).any()


def test_no_data_of_eight_bits_stay_as_tools_show_them():
    np.testing.assert_array_equal(decode_image(geotiff(CAT[..., 0].copy(), "255"))[..., 0], CAT[..., 0])


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_cvat_knows_no_no_data(kind):
    """As it shows them: what it makes of the pixels, which do count."""
    values = (HEIGHTS - 900).astype(kind)
    values[HOLES] = 9999
    expected = {
        "f": lambda: values.clip(0, 255).astype(np.uint8),
        "i": lambda: (values * (256 / 9999)).clip(0, 255).astype(np.uint8),
        "u": lambda: np.asarray(
            ImageOps.equalize(
                Image.fromarray(((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8))
            )
        ),
    }[np.dtype(kind).kind]()
    np.testing.assert_array_equal(decode_image(geotiff(values, "9999"), shown_by="cvat")[..., 0], expected)


@pytest.mark.parametrize("order", ["", "B"])
def test_a_tiff_of_16_bits_that_label_studios_page_does_not_show_is_plain(order):
    content = encoded(
        Image.frombytes(f"I;16{order}", CAT.shape[1::-1], SIXTEEN.astype(">u2" if order else "<u2").tobytes()), "TIFF"
    )
    np.testing.assert_array_equal(decode_image(content, shown_by="label studio"), decode_image(content))
    assert decode_image(content).max() == 255
