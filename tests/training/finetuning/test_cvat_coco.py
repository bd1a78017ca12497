"""What CVAT writes as *COCO 1.0*, from the same structures as its XML: both are read to the same objects."""

import json

import numpy as np
import pytest

from tests.training.finetuning import cvat_exports as cvat
from tests.training.finetuning.test_cvat import HEIGHT, WIDTH, disc, drawn, photo_file, read, ring
from training.finetuning.readers.coco import is_coco, read_coco
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport


def write_coco(folder, name, shapes):
    """`annotations/instances_default.json`: masks as runs with `iscrowd` 1, polygons with 0, all with `attributes`."""
    entries = []
    for number, (shape, mask) in enumerate(shapes, 1):
        is_mask = shape.type.value == "mask"
        rows, columns = np.nonzero(mask)
        entries.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": shape.label_id,
                "segmentation": {"counts": cvat.coco_counts(mask), "size": [HEIGHT, WIDTH]}
                if is_mask
                else [shape.points],
                "area": float(mask.sum()),
                "bbox": [float(n) for n in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)],
                "iscrowd": int(is_mask),
                "attributes": {"occluded": False},
            }
        )
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": dict.fromkeys(("contributor", "date_created", "description", "url", "version", "year"), ""),
        "categories": [{"id": key, "name": label, "supercategory": ""} for key, label in cvat.LABELS.items()],
        "images": [
            {
                "id": 1,
                "width": WIDTH,
                "height": HEIGHT,
                "file_name": name,
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
        ],
        "annotations": entries,
    }
    path = folder / "annotations" / "instances_default.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("name", "file"), [("a.png", "a.png"), ("frame_000004.PNG", "frame_000004.PNG")])
def test_both_forms_are_read_to_the_same_objects(tmp_path, name, file):
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[25:35, 2:12] = True
    shapes = [
        (cvat.mask_shape(ring()), ring()),
        (cvat.mask_shape(disc(5, 5, 3), label_id=2), disc(5, 5, 3)),
        (cvat.shape("polygon", [2, 25, 12, 25, 12, 35, 2, 35]), square),
    ]
    path = photo_file(tmp_path, f"images/default/{file}")
    content = json.loads(write_coco(tmp_path, name, shapes).read_text())
    assert is_coco(content)
    (coco,) = read_coco(content, PhotoFinder(tmp_path), ReadingReport(), "instances_default.json")
    root = cvat.export(cvat.images())
    cvat.add_image(root, 0, name, WIDTH, HEIGHT, [shape for shape, _ in shapes])
    (xml,), _ = read(root, tmp_path)
    for photo in (coco, xml):
        assert (photo.photo.file, photo.photo.size) == (path, (HEIGHT, WIDTH))
        assert [annotation.label for annotation in photo.annotations] == ["nucleus", "debris", "nucleus"]
        found = drawn(photo)[1]
        assert len(found) == len(shapes)
        for mask, (_, expected) in zip(found.values(), shapes, strict=True):
            np.testing.assert_array_equal(mask, expected)
