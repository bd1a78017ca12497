"""Exports of CVAT made from cvat-sdk's own structures, in the form of the server's dumps (2.x)."""

import xml.etree.ElementTree as ElementTree

import numpy as np
from cvat_sdk.masks import encode_mask
from cvat_sdk.models import LabeledShapeRequest

LABELS = {1: "nucleus", 2: "debris"}
ELEMENTS = {"rectangle": "box"}


def mask_shape(mask, **kwargs):
    return shape("mask", [float(n) for n in encode_mask(mask)], **kwargs)


def shape(kind, points, **kwargs):
    given = {"frame": 0, "label_id": 1, "source": "manual", "occluded": False, "group": 0, "z_order": 0} | kwargs
    return LabeledShapeRequest(type=kind, points=[float(n) for n in points], **given)


def ellipse_shape(x, y, rx, ry, **kwargs):
    """CVAT keeps an ellipse as its middle, its right end and its upper end."""
    return shape("ellipse", [x, y, x + rx, y - ry], **kwargs)


def geometry(drawn):
    points = drawn.points
    kind = drawn.type.value
    if kind == "mask":
        left, top, right, bottom = map(int, points[-4:])
        return {
            "rle": str([int(n) for n in points[:-4]])[1:-1],
            "left": str(left),
            "top": str(top),
            "width": str(right - left + 1),
            "height": str(bottom - top + 1),
        }
    if kind == "ellipse":
        numbers = {"cx": points[0], "cy": points[1], "rx": points[2] - points[0], "ry": points[1] - points[3]}
    elif kind == "rectangle":
        numbers = dict(zip(("xtl", "ytl", "xbr", "ybr"), points, strict=True))
    elif kind == "cuboid":
        corners = ("tl1", "bl1", "tr1", "br1", "tl2", "bl2", "tr2", "br2")
        numbers = dict(zip((axis + corner for corner in corners for axis in "xy"), points, strict=True))
    elif kind == "skeleton":
        return {}
    else:
        return {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(points[::2], points[1::2], strict=True))}
    if kind in ("ellipse", "rectangle") and getattr(drawn, "rotation", 0):
        numbers["rotation"] = drawn.rotation
    return {key: f"{number:.2f}" for key, number in numbers.items()}


def add_shape(parent, drawn):
    """An element of *CVAT for images*, its attributes in the server's order."""
    kind = drawn.type.value
    attributes = {"label": LABELS[drawn.label_id], "source": drawn.source}
    attributes |= {"occluded": str(int(drawn.occluded))} if kind != "skeleton" else {}
    attributes |= geometry(drawn) | {"z_order": str(drawn.z_order)}
    attributes |= {"group_id": str(drawn.group)} if drawn.group else {}
    return ElementTree.SubElement(parent, ELEMENTS.get(kind, kind), attributes)


def add_tracked(parent, drawn, frame, outside=False, keyframe=True):
    """An element of *CVAT for video*."""
    kind = drawn.type.value
    attributes = {"frame": str(frame), "keyframe": str(int(keyframe))}
    attributes |= {"outside": str(int(outside)), "occluded": str(int(drawn.occluded))}
    attributes |= geometry(drawn) | {"z_order": str(drawn.z_order)}
    return ElementTree.SubElement(parent, ELEMENTS.get(kind, kind), attributes)


def add_track(root, number, drawn, **attributes):
    """A track of one keyframe, as the server writes a shape of one frame: ended in the next frame."""
    given = {"id": str(number), "label": LABELS[drawn.label_id], "source": drawn.source, **attributes}
    given |= {"group_id": str(drawn.group)} if drawn.group else {}
    track = ElementTree.SubElement(root, "track", given)
    add_tracked(track, drawn, drawn.frame)
    add_tracked(track, drawn, drawn.frame + 1, outside=True)
    return track


def add_image(root, number, name, width, height, shapes=(), **project):
    """`project`: subset and task_id, which exports of projects have between name and width."""
    attributes = {"id": str(number), "name": name, **project, "width": str(width), "height": str(height)}
    image = ElementTree.SubElement(root, "image", attributes)
    for drawn in shapes:
        add_shape(image, drawn)
    return image


def export(*entries, project=False):
    """`<annotations>` with the meta of tasks or a job: (tag, {key: text or dict})."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    meta = ElementTree.SubElement(root, "meta")
    place = ElementTree.SubElement(ElementTree.SubElement(meta, "project"), "tasks") if project else meta
    for tag, content in entries:
        add_meta(ElementTree.SubElement(place, tag), content)
    return root


def add_meta(element, content):
    for key, value in content.items():
        child = ElementTree.SubElement(element, key)
        if isinstance(value, dict):
            add_meta(child, value)
        else:
            child.text = value


def video(number=7, source="lorry.mp4", width=60, height=40):
    """Meta of a task that is a video."""
    size = {"width": str(width), "height": str(height)}
    return "task", {"id": str(number), "mode": "interpolation", "original_size": size, "source": source}


def images(number=7):
    """Meta of a task that is images."""
    return "task", {"id": str(number), "mode": "annotation"}


def coco_counts(mask):
    """COCO's plain counts: runs in columns, background first."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff([0, *edges, mask.size]).tolist()
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]
