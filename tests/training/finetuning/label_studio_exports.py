"""Exports of Label Studio as tests write them, with photos of noise."""

import numpy as np
from PIL import Image

from icmformer.runs import MaskRuns
from ls_backend import rle
from training.finetuning.readers.label_studio import read_label_studio
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

SIZES = {"a.png": (40, 60), "b.png": (40, 60), "wide.png": (30, 90), "small.png": (10, 15)}  # height, width
RNG = np.random.default_rng(0)


def packed(mask):
    """A bool mask as Label Studio's brush has it."""
    return rle.encode(MaskRuns.of(mask))


def save(path, size, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(path, **options)


def blob(size, place=0):
    """A ragged mask with a hole."""
    mask = np.zeros(size, bool)
    mask[3 + place : size[0] - 2, 4:20] = True
    mask[6 + place : 9 + place, 8:12] = False
    mask[4 + place, 10:30:2] = True
    return mask


def region(value, number="r1", size=(40, 60), to_name="image", **more):
    sizes = {"original_height": size[0], "original_width": size[1]}
    return {"id": number, "to_name": to_name, "from_name": "mask", "image_rotation": 0, **sizes, "value": value, **more}


def brush(mask, number="r1", to_name="image", label="Cell", **more):
    value = {"format": "rle", "rle": packed(mask), "brushlabels": [label]}
    return region(value, number, mask.shape, to_name, type="brushlabels", **more)


def annotated(data, *results, **facts):
    return {"id": 7, "data": data, "annotations": [{"id": 1, "result": list(results), **facts}]}


def read(content, folder, **options):
    report = ReadingReport()
    photos = list(read_label_studio(content, PhotoFinder(folder), report, "export.json", **options))
    return photos, report


def drawn(photo, size=None):
    """The masks of a photo's annotations, each by itself."""
    masks = []
    for annotation in photo.annotations:
        (shape,) = annotation.shapes
        masks.append(shape.draw(*(size or photo.photo.size)))
    return masks


def by_file(photos):
    return {photo.photo.file.name: photo for photo in photos}


def skipped(report):
    return report.counts("skipped")
