"""Sets of COCO+LVIS: small ones made by hand, built and read back."""

import json
import pickle
import zipfile

import cv2
import numpy as np

from training.data.build_coco_lvis import main
from training.data.coco_lvis.rules import Object, combine, packed
from training.data.coco_lvis.writing import pack


def box(top, bottom, left, right, size=(100, 120)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def build(out, *options):
    return main([*map(str, options), "--out", str(out), "--jobs", "1"])


def objects_of(folder):
    """The objects of each image by its key, read from the shards without the reader of the product."""
    found = {}
    for path in folder.glob("shard-*.zip"):
        with zipfile.ZipFile(path) as archive:
            for row in map(json.loads, archive.read("index.jsonl").splitlines()):
                data = [archive.read(f"{row['key']}.{n}.png") for n in range(row["layers"])]
                layers = [cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_UNCHANGED) for d in data]
                found[row["key"]] = [
                    Object(packed(layers[layer] == value), "", parent, stuff)
                    for layer, value, parent, stuff in row["objects"]
                ]
    return found


def write_joined(root):
    """Two images with LVIS and panoptic annotations at once, and what the rules make of them by hand."""
    size = (100, 120)
    lvis = {"000000000001": [box(10, 60, 10, 60)], "000000000002": [box(0, 40, 0, 40), box(5, 20, 5, 20)]}
    things = {"000000000001": [box(12, 60, 10, 60), box(65, 95, 70, 110)], "000000000002": []}
    stuff = {"000000000001": [box(0, 100, 60, 70)], "000000000002": [box(30, 100, 0, 120)]}
    (root / "images").mkdir(parents=True)
    (root / "panoptic").mkdir()
    images = []
    annotations: list[dict] = []
    panoptic: list[dict] = []
    for number, key in enumerate(lvis, 1):
        cv2.imwrite(str(root / "images" / f"{key}.jpg"), np.zeros((*size, 3), np.uint8))
        images.append({"id": number, "file_name": f"{key}.jpg", "height": size[0], "width": size[1]})
        for mask in lvis[key]:
            rows, columns = np.nonzero(mask)
            top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            ring = [left, top, right, top, right, bottom, left, bottom]
            annotations.append({"image_id": number, "segmentation": [[int(v) for v in ring]]})
        ids = np.zeros(size, np.int32)
        segments = []
        for place, (mask, category) in enumerate([(m, 1) for m in things[key]] + [(m, 2) for m in stuff[key]], 1):
            ids[mask] = place
            segments.append({"id": place, "category_id": category, "iscrowd": 0})
        coded = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], -1).astype(np.uint8)  # RGB: id = R + 256 G
        cv2.imwrite(str(root / "panoptic" / f"{key}.png"), coded[..., ::-1])
        panoptic.append({"image_id": number, "file_name": f"{key}.png", "segments_info": segments})
    (root / "lvis.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    categories = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}]
    (root / "panoptic.json").write_text(
        json.dumps({"images": images, "annotations": panoptic, "categories": categories})
    )
    return root


def write_community(root, images):
    """The community's form, as its readers describe it."""
    (root / "masks").mkdir(parents=True)
    (root / "images").mkdir()
    samples = {}
    for key, objects in images.items():
        layers, places = pack([o.mask for o in objects])
        coded = [cv2.imencode(".png", layer)[1] for layer in layers]
        (root / "masks" / f"{key}.pickle").write_bytes(pickle.dumps((coded, dict(enumerate(places)))))
        count = sum(not o.stuff for o in objects)
        hierarchy = {
            n: {"children": [], "parent": o.parent, "node_level": 0} if o.parent is not None else None
            for n, o in enumerate(objects[:count])
        }
        samples[key] = {"num_instance_masks": count, "hierarchy": hierarchy}
        cv2.imwrite(str(root / "images" / f"{key}.jpg"), np.zeros((*objects[0].mask.shape, 3), np.uint8))
    (root / "hannotation.pickle").write_bytes(pickle.dumps(samples))
    return root


IMAGES = {
    "000000000009": combine([box(0, 90, 0, 60), box(20, 60, 5, 55)], [box(0, 40, 70, 110)], [box(50, 100, 60, 120)]),
    "000000000025": combine([box(5, 45, 5, 45)], [], []),
}
