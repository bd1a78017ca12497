"""Four formats written from the same label maps, by other hands where there are any, read back to the same maps."""

import json
import shutil
import uuid
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cvat_sdk.masks import encode_mask
from PIL import Image
from pycocotools import mask as coco_rle
from skimage import draw

from ls_backend import rle as studio_rle
from training.finetuning.readers import label_map as labelmap
from training.finetuning.readers.annotated_image import AnnotationError
from training.finetuning.readers.detect import read_annotations
from training.finetuning.readers.label_map import label_map, polygon_mask
from training.finetuning.readers.label_studio import decode_rle


def maps():
    """Two photos: touching objects, one with a hole, one in two parts, one of a single pixel."""
    first = np.zeros((90, 120), np.uint8)
    first[10:50, 10:60] = 1
    first[20:30, 20:30] = 0
    first[10:50, 60:90] = 2
    first[70:80, 5:15] = first[70:80, 100:110] = 3
    first[0, 119] = 4
    second = np.zeros((64, 50), np.uint8)
    rows, columns = draw.disk((30, 25), 15)
    second[rows, columns] = 1
    return {"one": first, "two": second}


MAPS = maps()


def masks(labels):
    return [labels == label for label in range(1, labels.max() + 1)]


def write_coco(folder, packed=True):
    images, annotations = [], []
    for number, (name, labels) in enumerate(MAPS.items(), 1):
        height, width = labels.shape
        images.append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        for mask in masks(labels):
            coded = coco_rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            counts = coded["counts"].decode() if packed else plain_counts(mask)
            segmentation = {"size": [height, width], "counts": counts}
            annotations.append({"id": len(annotations), "image_id": number, "iscrowd": 0, "segmentation": segmentation})
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def plain_counts(mask):
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def write_cvat(folder):
    root = ElementTree.Element("annotations")
    for number, (name, labels) in enumerate(MAPS.items()):
        height, width = labels.shape
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=f"{name}.png", width=str(width), height=str(height)
        )
        for mask in masks(labels):
            *runs, left, top, right, bottom = map(int, encode_mask(mask))
            ElementTree.SubElement(
                image,
                "mask",
                label="thing",
                rle=", ".join(map(str, runs)),
                left=str(left),
                top=str(top),
                width=str(right - left + 1),
                height=str(bottom - top + 1),
                z_order="0",
            )
    path = folder / "annotations.xml"
    ElementTree.ElementTree(root).write(path)
    return path


def write_label_studio(folder):
    tasks = []
    for number, (name, labels) in enumerate(MAPS.items()):
        height, width = labels.shape
        results = []
        for mask in masks(labels):
            region = {"id": uuid.uuid4().hex, "original_height": height, "original_width": width, "to_name": "image"}
            value = {"format": "rle", "rle": studio_rle.encode(mask)}
            results.append({**region, "type": "brush", "value": value})
            results.append({**region, "type": "labels", "value": {**value, "labels": ["thing"]}})
        data = {"image": f"/data/upload/3/0a1b2c3d-{name}.png"}
        cancelled = {"was_cancelled": True, "result": []}
        tasks.append({"id": number, "data": data, "annotations": [{"result": results}, cancelled]})
    path = folder / "export.json"
    path.write_text(json.dumps(tasks))
    return path


def write_folder(folder):
    (folder / "masks").mkdir()
    for name, labels in MAPS.items():
        Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
    return folder


WRITERS = {
    "coco": write_coco,
    "coco plain": lambda folder: write_coco(folder, packed=False),
    "cvat": write_cvat,
    "label studio": write_label_studio,
    "folder": write_folder,
}


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "images").mkdir()
    for name, labels in MAPS.items():
        Image.fromarray(np.repeat(labels[..., None] * 40, 3, 2)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("zipped", [False, True])
def test_all_formats_read_back_to_the_same_maps(photos, tmp_path, form, zipped):
    path = WRITERS[form](photos)
    if zipped:
        archive = tmp_path / "export.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for entry in sorted(photos.rglob("*")):
                if entry != archive:
                    file.write(entry, entry.relative_to(photos))
        path = archive
    read = {image.name: image for image in read_annotations(path, unpack=tmp_path / "unpacked")}
    assert set(read) == set(MAPS)
    for name, image in read.items():
        np.testing.assert_array_equal(image.labels, MAPS[name])
        assert image.file.name == f"{name}.png"


def test_label_studios_encoding_is_unpacked_run_by_run_too():
    """A stream with a run of unlike values, made by hand from the format's description."""
    bits = f"{6:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "00" + f"{1:03b}" + f"{7:08b}{9:08b}"  # two values as they are
    bits += "1" + "01" + f"{3:04b}" + f"{255:08b}"  # four times 255
    data = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert decode_rle(data).tolist() == [7, 9, 255, 255, 255, 255]
    with pytest.raises(ValueError, match="end early"):
        decode_rle(data[:-2])


def test_polygons_hold_the_pixels_whose_middles_they_hold():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.random((7, 2)) * [40, 30]
        expected = draw.polygon2mask((30, 40), points[:, ::-1] - 0.5)
        assert (polygon_mask(points.ravel(), 30, 40) != expected).sum() <= 1  # a middle on the line itself
    np.testing.assert_array_equal(
        polygon_mask([2, 1, 6, 1, 6, 4, 2, 4], 6, 8), np.pad(np.ones((3, 4), bool), ((1, 2), (2, 2)))
    )


def test_shapes_of_cvat_that_are_no_masks(photos):
    path = photos / "shapes.xml"
    path.write_text(
        '<annotations><image id="0" name="one.png" width="120" height="90">'
        '<polygon points="10.0,10.0;30.0,10.0;30.0,20.0;10.0,20.0" z_order="0" group_id="5"/>'
        '<polygon points="40,10;50,10;50,20;40,20" z_order="0" group_id="5"/>'
        '<box xtl="40" ytl="10" xbr="50" ybr="20" z_order="0"/>'
        '<ellipse cx="80" cy="40" rx="10" ry="5" z_order="1"/>'
        '<ellipse cx="70" cy="62" rx="10" ry="2" rotation="90" z_order="2"/>'
        '<points points="1,1"/></image></annotations>'
    )
    (photo,) = read_annotations(path)
    assert photo.labels.max() == 3
    assert photo.skipped == {"box": 1, "points": 1}  # they outline nothing
    np.testing.assert_array_equal(np.argwhere(photo.labels == 1).min(0), (10, 10))
    assert (photo.labels == 1).sum() == 20 * 10 + 10 * 10  # two polygons of one group
    assert (photo.labels == 2).sum() == pytest.approx(np.pi * 50, rel=0.05)
    turned = np.argwhere(photo.labels == 3)
    assert tuple(np.ptp(turned, axis=0) + 1) == (20, 4)


def test_polygons_of_label_studio_are_in_percent(photos):
    region = {
        "id": "a",
        "type": "polygonlabels",
        "original_width": 120,
        "original_height": 90,
        "value": {"points": [[10, 10], [50, 10], [50, 30], [10, 30]]},
    }
    path = photos / "export.json"
    path.write_text(
        json.dumps([{"id": 1, "data": {"image": "s3://shelf/one.png"}, "annotations": [{"result": [region]}]}])
    )
    (photo,) = read_annotations(path)
    assert np.argwhere(photo.labels).min(0).tolist() == [9, 12]
    assert photo.labels.sum() == 48 * 18


def test_crowds_are_ignored_and_small_objects_lie_over_large_ones(photos):
    large, small, crowd = (np.zeros((90, 120), bool) for _ in range(3))
    large[10:50, 10:50] = small[20:25, 20:25] = crowd[60:80, 60:80] = True
    annotations = [
        {
            "image_id": 1,
            "iscrowd": int(mask is crowd),
            "segmentation": {"size": [90, 120], "counts": plain_counts(mask)},
        }
        for mask in (small, large, crowd)
    ]
    annotations.append({"image_id": 1, "segmentation": [[100, 5, 110, 5, 110, 15, 100, 15]]})
    image = {"id": 1, "file_name": "one.png", "height": 90, "width": 120}
    (photos / "c.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    (photo,) = read_annotations(photos / "c.json")
    assert photo.labels[22, 22] == 1
    assert photo.labels[40, 40] == 2
    assert photo.labels[70, 70] == 255
    assert photo.labels[10, 105] == 3


def test_the_smallest_of_too_many_objects_are_ignored(monkeypatch):
    monkeypatch.setattr(labelmap, "MOST_OBJECTS", 2)
    parts = [np.zeros((4, 9), bool) for _ in range(3)]
    for part, columns in zip(parts, (slice(0, 2), slice(3, 4), slice(5, 9)), strict=True):
        part[:, columns] = True
    labels = label_map(parts, 4, 9)
    assert labels[0].tolist() == [1, 1, 0, 255, 0, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.json", "{", "cannot be read"),
        ("x.json", "[3]", "no export that is known"),
        (
            "x.json",
            '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "segmentation": [[1]]}]}',
            "cannot be read",
        ),
        (
            "x.json",
            '{"images": [{"id": 1, "file_name": "none.png", "height": 1, "width": 1}], "annotations": '
            '[{"image_id": 1, "segmentation": [[1, 1, 2, 2, 3, 3]]}]}',
            "there is no photo none.png",
        ),
        ("x.xml", "<annotations>", "cannot be read"),
        ("x.xml", "<annotations><track/></annotations>", "format for videos"),
        ("x.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
        (
            "x.xml",
            '<annotations><image name="one.png" width="120" height="90"><mask rle="3" left="0" top="0" width="9" '
            'height="9"/></image></annotations>',
            "run lengths do not fill",
        ),
        (
            "x.json",
            '[{"data": {"image": "gone.png"}, "annotations": [{"result": [{"original_height": 1, '
            '"original_width": 1, "value": {"points": []}}]}]}]',
            "gone.png",
        ),
        ("x.txt", "what", "is no export that is known"),
        ("x.json", "", "is empty"),
        ("x.json", "[]", "JSON-MIN"),
        ("x.xml", "<annotation/>", "is no export that is known"),
    ],
)
def test_what_is_no_export_is_told(photos, name, content, text):
    (photos / name).write_text(content)
    with pytest.raises(AnnotationError, match=text):
        list(read_annotations(photos / name))


def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("../outside.json", "[]")
    with pytest.raises(AnnotationError, match="lies outside"):
        list(read_annotations(tmp_path / "bad.zip", unpack=tmp_path / "in"))
    assert not (tmp_path / "outside.json").exists()


def test_zips_as_people_make_them(tmp_path):
    """One top folder, and what macOS adds; damaged and locked ones are told."""
    name = next(iter(MAPS))
    for inner in ("team/images", "team/masks", "__MACOSX/team"):
        (tmp_path / "packed" / inner).mkdir(parents=True)
    Image.fromarray(np.repeat(MAPS[name][..., None] * 40, 3, 2)).save(tmp_path / "packed/team/images" / f"{name}.png")
    Image.fromarray(MAPS[name]).save(tmp_path / "packed/team/masks" / f"{name}.png")
    (tmp_path / "packed/__MACOSX/team/._x.json").write_bytes(b"\0\5")
    path = Path(shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "packed"))
    (photo,) = read_annotations(path, unpack=tmp_path / "in")
    np.testing.assert_array_equal(photo.labels > 0, MAPS[name] > 0)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = next(i.header_offset for i in archive.infolist() if i.filename.endswith(f"masks/{name}.png")) + 70
    data[place : place + 30] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match="cannot be unpacked"):
        list(read_annotations(path, unpack=tmp_path / "in"))


def test_texts_beside_the_photo_and_degenerate_outlines_do_no_harm(photos):
    name = next(iter(MAPS))
    height, width = MAPS[name].shape
    region = {"original_height": height, "original_width": width, "value": {"points": [[10, 10], [90, 10], [50, 90]]}}
    task = {"data": {"caption": "word " * 200, "image": f"{name}.png"}, "annotations": [{"result": [region]}]}
    (photos / "export.json").write_text(json.dumps([task]))
    (found,) = read_annotations(photos / "export.json")
    assert found.labels.any()
    good = {"image_id": 1, "segmentation": [[1, 1, 20, 1, 20, 20]]}
    others = [{"image_id": 1, "segmentation": s} for s in ([], [[]], [[1, 1, 5, 5]], None)]
    content = {
        "images": [{"id": 1, "file_name": f"images/{name}.png", "height": height, "width": width}],
        "annotations": [good, *others],
    }
    (photos / "export.json").write_text(json.dumps(content))
    (found,) = read_annotations(photos / "export.json")
    assert found.labels.max() == 1
    assert found.skipped == {"no outline": 4}
    assert found.name == f"images__{name}"


def test_beyond_254_objects_the_smallest_are_ignored(tmp_path):
    values = np.zeros((60, 90), np.uint16)
    for n in range(270):
        values[2 * (n // 15) : 2 * (n // 15) + 2, 6 * (n % 15) : 6 * (n % 15) + (2 if n >= 16 else 1)] = n + 1
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "images" / "dense.png")
    Image.fromarray(values).save(tmp_path / "masks" / "dense.png")
    (photo,) = read_annotations(tmp_path)
    assert set(np.unique(photo.labels)) == set(range(256))
    np.testing.assert_array_equal(photo.labels == 255, (values > 0) & (values <= 16))
