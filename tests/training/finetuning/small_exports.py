"""Exports of few photos, and what comes of them."""

import shutil
import zipfile

import numpy as np
from PIL import Image

from training.finetuning.photos import prepare_photos
from training.finetuning.readers.detect import Export, read_annotations
from training.finetuning.readers.reading_report import ReadingReport

SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]


def photo(path, size=(40, 50), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)


def coco(*names, size=(40, 50)):
    images = [{"id": n, "file_name": name, "height": size[0], "width": size[1]} for n, name in enumerate(names)]
    annotations = [{"id": n, "image_id": n, "segmentation": SQUARE, "category_id": 1} for n in range(len(names))]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}


def task(name, number=1):
    value = {"points": [[20, 25], [40, 25], [40, 50], [20, 50]], "polygonlabels": ["thing"]}
    region = {"id": "r", "type": "polygonlabels", "to_name": "image", "original_width": 50, "original_height": 40}
    return {"id": number, "data": {"image": name}, "annotations": [{"id": 1, "result": [{**region, "value": value}]}]}


def cvat(*names):
    shape = '<polygon label="thing" points="10,10;20,10;20,20;10,20" z_order="0"/>'
    images = "".join(
        f'<image id="{n}" name="{name}" width="50" height="40">{shape}</image>' for n, name in enumerate(names)
    )
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{images}</annotations>'


def read(path, tmp_path, report=None, **options):
    report = ReadingReport() if report is None else report
    return read_annotations(Export(path, **options), tmp_path / "unpacked", report)


def outlines(photos, tmp_path):
    report = ReadingReport()
    shutil.rmtree(tmp_path / "prepared", ignore_errors=True)
    prepared = prepare_photos(photos, tmp_path / "prepared", report)
    masks = {
        p.identity: np.asarray(Image.open(tmp_path / "prepared" / "masks" / f"{p.stem}.png")) > 0 for p in prepared
    }
    return masks, report


def square():
    mask = np.zeros((40, 50), bool)
    mask[10:20, 10:20] = True
    return mask


def packed(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for entry in sorted(folder.rglob("*")):
            archive.write(entry, entry.relative_to(folder).as_posix())
    return path


def moved(task, percent, updated):
    """A task whose outline lies elsewhere, changed at a time."""
    (annotation,) = task["annotations"]
    for region in annotation["result"]:
        region["value"]["points"] = [[x + percent, y] for x, y in region["value"]["points"]]
    return {**task, "annotations": [{**annotation, "updated_at": updated}]}


def mask_folder(folder):
    labels = np.zeros((40, 50), np.uint8)
    labels[10:20, 10:20], labels[25:30, 5:40] = 1, 2
    for name in ("a/001", "b/001", "c"):
        photo(folder / "images" / f"{name}.png", seed=len(name))
        (folder / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
    return labels
