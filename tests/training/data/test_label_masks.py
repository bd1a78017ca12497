"""Mask files that are not clean: soft edges, JPEG, colour."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data, draw, filters, transform

from icmformer.errors import ConfigError
from training.data.label_masks import read_label_mask


def blob():
    mask = np.zeros((160, 200), bool)
    mask[draw.disk((70, 80), 40)] = True
    mask[draw.disk((70, 80), 12)] = False
    mask[120:140, 130:180] = True
    return mask


def written(tmp_path, values, name="m.png", **options):
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_mask_stored_as_jpeg_is_one_object(tmp_path, quality, mode):
    image = Image.fromarray(blob().astype(np.uint8) * 255).convert(mode)
    path = written(tmp_path, image, "m.jpg", quality=quality)
    mask = read_label_mask(path)
    assert mask.thresholded
    assert set(np.unique(mask.labels)) == {0, 1}
    assert (mask.labels.astype(bool) != blob()).sum() < 0.002 * blob().size


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.5, 2.0])
def test_soft_edges_are_thresholded_in_the_middle(tmp_path, scale):
    size = (round(160 * scale), round(200 * scale))
    soft = transform.resize(blob().astype(float), size, order=1, anti_aliasing=True)
    mask = read_label_mask(written(tmp_path, (soft * 255).round().astype(np.uint8)))
    assert mask.thresholded
    np.testing.assert_array_equal(mask.labels.astype(bool), (soft * 255).round() >= 127.5)


@pytest.mark.parametrize("sigma", [0.7, 1.5, 2.5])
def test_blurred_masks_are_thresholded_in_the_middle(tmp_path, sigma):
    soft = (filters.gaussian(blob().astype(float), sigma, mode="nearest") * 255).round().astype(np.uint8)
    mask = read_label_mask(written(tmp_path, soft))
    assert mask.thresholded
    np.testing.assert_array_equal(mask.labels.astype(bool), soft >= int(soft.max()) / 2)


def test_an_enlarged_small_mask_is_thresholded(tmp_path):
    small = transform.resize(blob().astype(float), (40, 50), order=1, anti_aliasing=True)
    soft = (transform.resize(small, (160, 200), order=1) * 255).round().astype(np.uint8)
    mask = read_label_mask(written(tmp_path, soft))
    assert mask.thresholded
    assert (mask.labels.astype(bool) != blob()).mean() < 0.02


def test_many_small_objects_are_ids(tmp_path):
    labels = np.zeros((200, 200), np.uint8)
    for number in range(220):
        labels[draw.disk((13 * (number // 15) + 7, 13 * (number % 15) + 7), 4)] = number + 1
    mask = read_label_mask(written(tmp_path, labels))
    assert not mask.thresholded
    np.testing.assert_array_equal(mask.labels, labels)


def test_a_picture_is_no_mask(tmp_path):
    with pytest.raises(ConfigError, match="change from pixel to pixel"):
        read_label_mask(written(tmp_path, data.camera()))


def test_a_mask_in_the_transparency_is_told(tmp_path):
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[5:10, 5:10, 3] = 255
    with pytest.raises(ConfigError, match="its mask in the transparency"):
        read_label_mask(written(tmp_path, pixels))


def test_clean_label_maps_stay_as_they_are(tmp_path):
    labels = np.zeros((60, 80), np.uint8)
    labels[5:20, 5:30], labels[20:40, 5:30], labels[45:50, 60:70] = 3, 200, 77
    labels[0:2] = 255
    mask = read_label_mask(written(tmp_path, labels))
    assert not mask.thresholded
    expected = np.select([labels == 3, labels == 77, labels == 200, labels == 255], [1, 2, 3, 255])
    np.testing.assert_array_equal(mask.labels, expected)


def test_pascals_ignored_border_is_no_soft_edge(tmp_path):
    labels = np.zeros((60, 80), np.uint8)
    labels[10:40, 10:60] = 1
    labels[12:20, 12:30] = 2
    border = cv2.dilate(labels, np.ones((5, 5))) != cv2.erode(labels, np.ones((5, 5)))
    labels[border] = 255
    mask = read_label_mask(written(tmp_path, labels))
    assert not mask.thresholded
    np.testing.assert_array_equal(mask.labels, labels)


def test_values_of_a_palette_are_ids(tmp_path):
    labels = np.zeros((40, 40), np.uint8)
    labels[5:30, 5:30] = 255
    labels[5:30, 30] = 9  # as a soft edge would lie
    image = Image.fromarray(labels)
    image.putpalette(list(range(256)) * 3)
    mask = read_label_mask(written(tmp_path, image))
    assert not mask.thresholded
    assert set(np.unique(mask.labels)) == {0, 1, 255}


@pytest.mark.parametrize(
    ("values", "name", "text"),
    [
        (np.arange(256, dtype=np.uint8).repeat(64).reshape(128, 128), "m.jpg", "values are not exact"),
        (np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8), "m.png", "is in colour"),
        (np.ones((4, 4), np.float32), "m.tif", "no whole numbers"),
    ],
)
def test_what_cannot_be_a_mask_is_refused(tmp_path, values, name, text):
    with pytest.raises(ConfigError, match=text):
        read_label_mask(written(tmp_path, values, name))


def test_a_damaged_mask_is_refused(tmp_path):
    out = io.BytesIO()
    Image.fromarray(blob()).save(out, "PNG")
    (tmp_path / "m.png").write_bytes(out.getvalue()[:60])
    with pytest.raises(ConfigError, match="cannot be read as a mask"):
        read_label_mask(tmp_path / "m.png")


def test_of_more_than_254_objects_the_smallest_are_ignored_and_counted(tmp_path):
    values = np.zeros((60, 90), np.uint16)
    for n in range(270):
        values[2 * (n // 15) : 2 * (n // 15) + 2, 6 * (n % 15) : 6 * (n % 15) + (2 if n >= 16 else 1)] = n + 1
    mask = read_label_mask(written(tmp_path, values))
    assert mask.dropped == 16
    assert not mask.thresholded
    np.testing.assert_array_equal(mask.labels == 255, (values > 0) & (values <= 16))


def test_a_gray_mask_in_colour_channels_is_gray(tmp_path):
    labels = np.zeros((30, 40), np.uint8)
    labels[3:9, 4:12], labels[12:20, 4:12] = 7, 9
    for channels in (3, 4):
        stacked = np.repeat(labels[..., None], channels, 2)
        if channels == 4:
            stacked[..., 3] = 255
        mask = read_label_mask(written(tmp_path, stacked))
        np.testing.assert_array_equal(mask.labels, np.select([labels == 7, labels == 9], [1, 2]))
