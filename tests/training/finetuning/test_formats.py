"""Four formats written from the same label maps, by other hands where there are any, read back to the same maps."""

import json
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

from tests.training.finetuning.label_studio_exports import packed
from training.data.outlines import polygon_mask
from training.finetuning.photos import prepare_photos
from training.finetuning.readers.detect import Export, read_annotations
from training.finetuning.readers.reading_report import ReadingReport


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
            value = {"format": "rle", "rle": packed(mask)}
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
    report = ReadingReport()
    photos = read_annotations(Export(path), tmp_path / "unpacked", report)
    prepared = prepare_photos(photos, tmp_path / "run", report)
    assert {Path(photo.identity).stem.removeprefix("0a1b2c3d-"): photo.stem for photo in prepared} == {
        "one": "000001",
        "two": "000002",
    }
    for photo, labels in zip(prepared, MAPS.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "run/masks" / f"{photo.stem}.png")), labels)
    assert report.counts("skipped").keys() <= {"cancelled annotation"}


def test_polygons_hold_the_pixels_whose_middles_they_hold():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.random((7, 2)) * [40, 30]
        expected = draw.polygon2mask((30, 40), points[:, ::-1] - 0.5)
        assert (polygon_mask(points, 30, 40) != expected).sum() <= 1  # a middle on the line itself
    np.testing.assert_array_equal(
        polygon_mask(np.array([[2.0, 1], [6, 1], [6, 4], [2, 4]]), 6, 8),
        np.pad(np.ones((3, 4), bool), ((1, 2), (2, 2))),
    )
