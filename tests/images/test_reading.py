import contextlib
import io
import struct
import time
import warnings
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icmformer import Click, LoadedImage, decode_image
from icmformer.errors import ImageError, ImageTooLargeError, TruncatedImageError
from icmformer.images.masks import overlay, read_mask, write_image, write_mask
from icmformer.images.reading import TruncatedImageWarning, read_image

BROKEN = ("broken_data_stream.png", "truncated_jpeg.jpg")


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_exif_orientations_come_out_upright(shared, orientation):
    folder = shared / "data" / "fixtures" / "exif"
    upright = read_image(folder / "Landscape_1.jpg").pixels.astype(int)
    turned = read_image(folder / f"Landscape_{orientation}.jpg").pixels.astype(int)
    assert turned.shape == upright.shape
    assert np.abs(turned - upright).mean() < 6  # each was compressed anew
    assert np.abs(turned - upright[::-1]).mean() > 30


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_against_a_picture_turned_by_hand(orientation):
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[:10, :20] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode_image(encoded(Image.fromarray(stored), exif=exif))
    turns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }
    np.testing.assert_array_equal(shown, turns[orientation])


def test_all_format_fixtures_open_but_the_broken_ones(shared):
    opened = 0
    for path in sorted((shared / "data" / "fixtures" / "formats").glob("*.*")):
        if path.name in (*BROKEN, "LICENSE.pillow"):
            continue
        pixels = read_image(path).pixels
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert pixels.std() > 5, path.name
        opened += 1
    assert opened >= 16


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_or_opened_as_far_as_they_go(shared, name):
    path = shared / "data" / "fixtures" / "formats" / name
    with pytest.raises(TruncatedImageError, match=name):
        read_image(path)
    with pytest.warns(TruncatedImageWarning):
        assert read_image(path, allow_truncated=True).pixels.std() > 5


def test_colours_of_fixtures_are_right(shared):
    folder = shared / "data" / "fixtures" / "formats"
    red = read_image(folder / "pil_sample_cmyk.jpg").pixels  # says RED in red on near black
    np.testing.assert_allclose(red[2, 2].astype(int), (254, 0, 0), atol=60)
    lab = read_image(folder / "hopper.Lab.tif").pixels[5:40, 80:]  # a blue wall
    assert lab[..., 2].mean() > lab[..., 0].mean() + 40


def test_sixteen_bits_are_scaled_by_least_and_largest_value():
    values = np.linspace(1000, 5000, 12, dtype=np.uint16).reshape(3, 4)
    for data in (encoded(Image.fromarray(values)), encoded(Image.fromarray(values), "TIFF")):
        expected = np.rint((values - 1000) / 4000 * 255).astype(np.uint8)
        np.testing.assert_array_equal(decode_image(data)[..., 0], expected)
    assert not decode_image(encoded(Image.fromarray(np.full((4, 4), 40000, np.uint16)))).any()


def test_floats_are_scaled_and_values_that_are_not_numbers_do_no_harm():
    values = np.array([[-1.0, 0.0], [np.nan, 1.0]], np.float32)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(values), "TIFF"))[..., 1], [[0, 128], [0, 255]])


def test_transparency_is_laid_over_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (200, 0, 0, 255)
    pixels[1, 1] = (200, 0, 0, 127)
    shown = decode_image(encoded(Image.fromarray(pixels)))
    assert tuple(shown[0, 0]) == (200, 0, 0)
    assert tuple(shown[0, 1]) == (255, 255, 255)
    np.testing.assert_allclose(shown[1, 1], (228, 128, 128), atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode, photo):
    image = Image.fromarray(photo).convert(mode)
    shown = decode_image(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert shown.shape == photo.shape
    assert abs(shown.mean() - photo.mean()) < 12
    assert np.corrcoef(shown.mean(2).ravel(), photo.mean(2).ravel())[0, 1] > 0.2  # one bit: dithered


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(decode_image(data)[4, 4]) == (255, 0, 0)


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(width * 30), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_bombs_are_refused_from_their_header():
    start = time.process_time()
    with pytest.raises(ImageTooLargeError):
        decode_image(png_of(30_000, 30_000))
    assert time.process_time() - start < 1
    with pytest.raises(ImageTooLargeError, match="ICMFORMER_MAX_PIXELS"):
        decode_image(png_of(12_000, 12_000))
    with pytest.raises(ImageTooLargeError, match="1,000"):
        decode_image(encoded(Image.new("RGB", (50, 50))), max_pixels=1_000)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ImageError):
        decode_image(data)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_files_never_raise_anything_else(data):
    form = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"]))
    raw = bytearray(encoded(Image.fromarray(np.arange(48 * 3, dtype=np.uint8).reshape(6, 8, 3)), form))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImageError):
            assert decode_image(bytes(raw), max_pixels=10**6).ndim == 3


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_files_that_end_early_are_truncated_whatever_their_format(form, photo):
    options = {"compression": "tiff_lzw"} if form == "TIFF" else {}
    data = encoded(Image.fromarray(photo), form, **options)
    for share in (0.3, 0.9):
        with pytest.raises(TruncatedImageError):
            decode_image(data[: int(len(data) * share)])


def test_masks_of_any_depth_are_read_as_probabilities(tmp_path):
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    for name, values in (("255", mask * np.uint8(255)), ("1", mask.astype(np.uint8)), ("16", mask * np.uint16(65535))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), mask)
    Image.fromarray(mask).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bit.png"), mask)
    (tmp_path / "bomb.png").write_bytes(png_of(30_000, 30_000))
    with pytest.raises(ImageError):
        read_mask(tmp_path / "bomb.png")


def test_content_names_itself(photo):
    first, second = LoadedImage.from_array(photo), LoadedImage.from_array(photo.copy())
    assert first.digest == second.digest
    changed = photo.copy()
    changed[0, 0, 0] ^= 1
    assert LoadedImage.from_array(changed).digest != first.digest
    flat = photo.reshape(1, -1, 3)
    assert LoadedImage.from_array(flat).digest != first.digest
    with pytest.raises(ValueError, match="read-only"):
        first.pixels[0, 0, 0] = 1


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "photo.jpg"]
)
def test_arrays_that_are_no_rgb_image_are_refused(bad):
    with pytest.raises(ImageError):
        LoadedImage.from_array(bad)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_masks_come_back_as_written(tmp_path, suffix):
    mask = np.random.default_rng(0).random((30, 40)) < 0.5
    path = tmp_path / f"mask{suffix}"
    write_mask(path, mask)
    np.testing.assert_array_equal(read_mask(path), mask.astype(np.float32))


def test_masks_are_not_written_lossy_nor_to_nowhere(tmp_path):
    with pytest.raises(ImageError, match="png"):
        write_mask(tmp_path / "mask.jpg", np.zeros((4, 4), bool))
    with pytest.raises(ImageError, match="cannot write"):
        write_mask(tmp_path / "no" / "mask.png", np.zeros((4, 4), bool))
    with pytest.raises(ImageError, match="format"):
        write_image(tmp_path / "picture.xyz", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "text.png").write_text("no mask")
    with pytest.raises(ImageError):
        read_mask(tmp_path / "text.png")


def test_an_overlay_shows_mask_and_clicks(photo, tmp_path):
    mask = np.zeros(photo.shape[:2], bool)
    mask[100:200, 100:200] = True
    picture = overlay(photo, mask, [Click(150, 150), Click(300, 50, positive=False)])
    assert picture.shape == photo.shape
    assert (picture[150, 150] == (0, 170, 60)).all()
    assert (picture[50, 300] == (220, 40, 40)).all()
    np.testing.assert_array_equal(picture[250:, :50], photo[250:, :50])
    write_image(tmp_path / "o.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "o.png"))[..., ::-1], picture)


def test_what_follows_a_jpeg_is_not_taken_for_scans(photo):
    """Phones append short films; in random bytes the marker of a scan comes once in 65,536."""
    out = io.BytesIO()
    Image.fromarray(photo).save(out, "JPEG", quality=95, progressive=True)
    plain = LoadedImage.from_bytes(out.getvalue())
    film = np.random.default_rng(0).bytes(20 << 20)
    assert film.count(b"\xff\xda") > 250
    np.testing.assert_array_equal(LoadedImage.from_bytes(out.getvalue() + film).pixels, plain.pixels)
