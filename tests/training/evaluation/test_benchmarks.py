"""Every published layout, rebuilt small."""

import io
import json
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from icmformer.errors import ConfigError
from training.evaluation.benchmarks import load_benchmark

SIZE = (24, 32)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def photo(path):
    write(path, np.full((*SIZE, 3), 120, np.uint8))


def block(value, dtype=np.uint8, shape=SIZE):
    mask = np.zeros(shape, dtype)
    mask[4:12, 6:20] = value
    return mask


def truth_of(objects, index=0):
    return objects[index].load()[1]


def test_grabcut_and_berkeley_ignore_128(tmp_path):
    mask = block(255)
    mask[12:14, 6:20] = 128
    mask[20, 20] = 64
    for name, images, masks in (("GrabCut", "data_GT", "boundary_GT"), ("Berkeley", "images", "masks")):
        photo(tmp_path / name / images / "a.jpg")
        write(tmp_path / name / masks / "a.bmp", mask)
        truth = truth_of(load_benchmark(name, tmp_path / name))
        np.testing.assert_array_equal(truth, np.where(mask == 128, -1, mask == 255))


@pytest.mark.parametrize("name", ["DAVIS", "COCO_MVal"])
def test_any_channel_over_zero_is_the_object(tmp_path, name):
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[..., 1] = block(7)
    mask[20:22, 1:3, 2] = 1
    photo(tmp_path / "img" / "f.jpg")
    write(tmp_path / "gt" / "f.png", mask)
    np.testing.assert_array_equal(truth_of(load_benchmark(name, tmp_path)), mask.any(axis=2))


def test_sbd_has_an_object_for_each_instance(tmp_path):
    ids = block(1).astype(np.uint8)
    ids[15:20, 2:8] = 2
    photo(tmp_path / "img" / "x.jpg")
    (tmp_path / "inst").mkdir()
    savemat(tmp_path / "inst" / "x.mat", {"GTinst": {"Segmentation": ids, "Categories": np.array([[1], [3]])}})
    (tmp_path / "val.txt").write_text("x\n")
    objects = load_benchmark("SBD", tmp_path)
    assert [o.name for o in objects] == ["x_1", "x_2"]
    np.testing.assert_array_equal(truth_of(objects, 1), ids == 2)


def test_voc_reads_palette_indices_and_ignores_void(tmp_path):
    ids = block(1)
    ids[3, 6:20] = 255
    ids[15:20, 2:8] = 9
    photo(tmp_path / "JPEGImages" / "v.jpg")
    image = Image.fromarray(ids, "P")
    image.putpalette([(i * 37) % 256 for i in range(768)])
    (tmp_path / "SegmentationObject").mkdir()
    image.save(tmp_path / "SegmentationObject" / "v.png")
    listing = tmp_path / "ImageSets" / "Segmentation" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("v\n")
    objects = load_benchmark("PascalVOC", tmp_path)
    assert [o.label for o in objects] == [1, 9]
    np.testing.assert_array_equal(truth_of(objects, 1), np.where(ids == 255, -1, ids == 9))


def test_any_folder_of_pairs_and_label_maps(tmp_path):
    photo(tmp_path / "images" / "p.png")
    write(tmp_path / "masks" / "p.png", block(3))
    np.testing.assert_array_equal(truth_of(load_benchmark("folder", tmp_path)), block(1))
    assert [o.label for o in load_benchmark("label-maps", tmp_path)] == [3]


def test_label_maps_keep_palette_indices_and_deep_values(tmp_path):
    ids = block(1)
    ids[15:20, 2:8] = 2
    photo(tmp_path / "a" / "images" / "p.png")
    image = Image.fromarray(ids, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 128, 0, 0] + [9] * 759)  # both ids in one colour
    (tmp_path / "a" / "masks").mkdir()
    image.save(tmp_path / "a" / "masks" / "p.png")
    assert [o.label for o in load_benchmark("label-maps", tmp_path / "a")] == [1, 2]
    photo(tmp_path / "b" / "images" / "p.png")
    write(tmp_path / "b" / "masks" / "p.png", block(256, np.uint16))
    np.testing.assert_array_equal(truth_of(load_benchmark("folder", tmp_path / "b")), block(1))
    assert [o.label for o in load_benchmark("label-maps", tmp_path / "b")] == [256]
    write(tmp_path / "b" / "masks" / "p.png", np.dstack([block(5)] * 3))
    with pytest.raises(ConfigError, match="in colour"):
        load_benchmark("label-maps", tmp_path / "b")
    photo(tmp_path / "b" / "images" / "p.jpg")
    with pytest.raises(ConfigError, match="same name"):
        load_benchmark("folder", tmp_path / "b")


def test_masks_that_cannot_be_read_are_named(tmp_path):
    photo(tmp_path / "img" / "x.jpg")
    (tmp_path / "val.txt").write_text("x\n")
    with pytest.raises(ConfigError, match=r"x\.mat"):
        load_benchmark("SBD", tmp_path)
    (tmp_path / "text.zip").write_text("no shard")
    with pytest.raises(ConfigError, match="not a shard"):
        load_benchmark("shard", tmp_path / "text.zip")


def test_a_shard_leaves_out_small_objects_and_regions(tmp_path):
    labels = block(1)
    labels[20, 20] = 2
    labels[22, :] = 255
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        records = [
            {"key": "k", "set": "coco", "labels": [1, 2]},
            {"key": "k", "set": "bsds500", "labels": [1], "segments": True},
        ]
        archive.writestr("index.jsonl", "\n".join(map(json.dumps, records)))
        for suffix, pixels in ((".webp", np.full((*SIZE, 3), 9, np.uint8)), (".png", labels)):
            out = io.BytesIO()
            Image.fromarray(pixels).save(out, "WEBP" if suffix == ".webp" else "PNG")
            archive.writestr(f"k{suffix}", out.getvalue())
    (only,) = load_benchmark("shard", path)
    np.testing.assert_array_equal(only.load()[1], np.where(labels == 255, -1, labels == 1))


def test_a_mosaic_shows_an_objects_photo_as_one_of_nine(shard_root):
    plain, items = (load_benchmark(kind, shard_root / "tiny.zip") for kind in ("shard", "mosaic"))
    assert [item.name for item in items] == [item.name for item in plain]
    places = set()
    for item, alone in zip(items, plain, strict=True):
        image, truth = item.load()
        assert image.pixels.shape == (840, 840, 3)
        rows, columns = np.nonzero(truth == 1)
        row, column = (int(values.mean()) // 280 * 280 for values in (rows, columns))
        places.add((row, column))
        photo, own = alone.load()
        tile = (slice(row, row + 280), slice(column, column + 280))
        np.testing.assert_array_equal(image.pixels[tile], cv2.resize(photo.pixels, (280, 280), interpolation=3))
        assert (truth[tile] == 1).mean() == pytest.approx((own == 1).mean(), rel=0.02)
        assert (truth == 1).sum() == (truth[tile] == 1).sum()
        np.testing.assert_array_equal(item.load()[1], truth)
    assert len(places) > 3


def test_a_limit_is_spread_over_the_set(tmp_path):
    for i in range(10):
        photo(tmp_path / "images" / f"{i}.png")
        write(tmp_path / "masks" / f"{i}.png", block(1))
    assert [o.name for o in load_benchmark("folder", tmp_path, 3)] == ["0", "3", "6"]
    assert len(load_benchmark("folder", tmp_path, 99)) == 10


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        load_benchmark("GrabCut", tmp_path)
    with pytest.raises(ConfigError, match=r"val\.txt"):
        load_benchmark("SBD", tmp_path)
    with pytest.raises(ConfigError, match="unknown data set"):
        load_benchmark("ADE20K", tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(ConfigError, match="no objects"):
        load_benchmark("folder", tmp_path)
    photo(tmp_path / "images" / "a.png")
    with pytest.raises(ConfigError, match="no mask"):
        load_benchmark("folder", tmp_path)
    write(tmp_path / "masks" / "a.png", block(1, shape=(30, 32)))
    with pytest.raises(ConfigError, match="different sizes"):
        truth_of(load_benchmark("folder", tmp_path))


def test_the_real_sets_have_their_published_numbers_of_objects(shared):
    for name, count in (("GrabCut", 50), ("Berkeley", 100)):
        objects = load_benchmark(name, shared / "data" / "eval" / name)
        assert len(objects) == count
        for item in objects[::25]:
            truth = truth_of([item])
            assert (truth == 1).any()
            assert (truth == 0).any()
