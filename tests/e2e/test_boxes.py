"""Rectangles that are in a real Label Studio get masks: as predictions, which it decodes to the engine's masks."""

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from demo.photos import sample_photos
from icmformer import LoadedImage
from tests.conftest import ROOT
from tests.ls_backend.conftest import rotated

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
FILES = {"coffee.jpg": sample_photos()["coffee.jpg"], "turned.png": rotated()}
LABELS = '<Label value="Cup"/><Label value="Cat"/>'
BOXES = f'<RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>'
CONFIGS = {
    "brush": f'<View><Image name="image" value="$image"/>{BOXES}'
    f'<BrushLabels name="mask" toName="image">{LABELS}</BrushLabels></View>',
    "polygon": f'<View><Image name="image" value="$image"/>{BOXES}'
    f'<PolygonLabels name="outline" toName="image">{LABELS}</PolygonLabels></View>',
    "unified": '<View><Image name="image" value="$image"/>'
    f'<Labels name="label" toName="image">{LABELS}</Labels>'
    '<Rectangle name="box" toName="image"/><Brush name="mask" toName="image"/></View>',
}
CUP = {"x": 16.7, "y": 20.0, "width": 65.0, "height": 67.5, "rotation": 0}
CAT = {"x": 26.6, "y": 6.7, "width": 46.6, "height": 90.0, "rotation": 0}
TURNED = {"x": 70.0, "y": 15.0, "width": 40.0, "height": 60.0, "rotation": 90}


def drawn(value, label, size, config, number):
    common = {
        "id": f"rect{number}",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
    }
    if config == "unified":
        yield {**common, "from_name": "box", "type": "rectangle", "value": value}
        yield {**common, "from_name": "label", "type": "labels", "value": {**value, "labels": [label]}}
    else:
        yield {
            **common,
            "from_name": "box",
            "type": "rectanglelabels",
            "value": {**value, "rectanglelabels": [label]},
        }


def pixels(value, size):
    """The box around a rectangle, which is turned by 0 or 90 degrees."""
    width, height = size
    x, y = value["x"] * width / 100, value["y"] * height / 100
    across, down = value["width"] * width / 100, value["height"] * height / 100
    return (x - down, y, x, y + across) if value["rotation"] else (x, y, x + across, y + down)


def whole(studio, task):
    return studio.api("GET", f"/api/tasks/{task}/?resolve_uri=false")


def command(studio, project, *more):
    return [
        *(sys.executable, "-m", "icmformer", "boxes", "label-studio", "--url", f"http://127.0.0.1:{studio.port}"),
        *("--project", str(project), "--weights", "starter", "--profile", "fast", "--threshold", "0", *more),
    ]


def environment(studio, folder):
    return {**os.environ, "LABEL_STUDIO_API_KEY": studio.token, "ICMFORMER_CACHE_DIR": str(folder)}


@pytest.mark.parametrize("config", list(CONFIGS))
def test_rectangles_get_masks_that_label_studio_decodes(studio, engine, decode, tmp_path, config):
    project = studio.project(f"boxes {config}", CONFIGS[config], FILES)
    listed = studio.api("GET", f"/api/tasks/?project={project}&fields=all")["tasks"]
    tasks = {next(name for name in FILES if name.split(".")[0] in t["data"]["image"]): t["id"] for t in listed}
    rectangles = {
        "coffee.jpg": ((600, 400), [(CUP, "Cup"), (TURNED, "Cat")]),
        "turned.png": ((451, 300), [(CAT, "Cat")]),
    }
    for name, (size, boxes) in rectangles.items():
        result = [item for n, box in enumerate(boxes) for item in drawn(*box, size, config, n)]
        studio.api("POST", f"/api/tasks/{tasks[name]}/annotations/", {"result": result, "lead_time": 3.5})
    before = {name: whole(studio, task)["annotations"] for name, task in tasks.items()}
    words = command(studio, project)
    for _ in range(2):  # the second time nothing is left to be done
        done = subprocess.run(
            words, cwd=ROOT, env=environment(studio, tmp_path), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "3 boxes: 3 masks written" in done.stdout
    subprocess.run(words, cwd=ROOT, env=environment(studio, tmp_path / "other"), timeout=300, check=True)  # no journal
    for name, (size, boxes) in rectangles.items():
        task = whole(studio, tasks[name])
        assert json.dumps(task["annotations"]) == json.dumps(
            [{**a, "created_ago": b["created_ago"]} for a, b in zip(before[name], task["annotations"], strict=True)]
        )
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == f"icmformer starter {engine.weights.sha256[:8]} fast"
        image = LoadedImage.from_bytes(FILES[name])
        found = [engine.segment(image, box=pixels(value, size)) for value, _ in boxes]
        assert prediction["score"] == pytest.approx(np.mean([f.score for f in found]), abs=1e-4)
        if config == "polygon":
            assert {r["type"] for r in prediction["result"]} == {"polygonlabels"}
            continue
        masks = [r for r in prediction["result"] if r["type"] in ("brush", "brushlabels")]
        named = [r for r in prediction["result"] if r["type"] in ("labels", "brushlabels")]
        for mask, labelled, expected, (_, label) in zip(masks, named, found, boxes, strict=True):
            np.testing.assert_array_equal(decode(mask["value"]["rle"], *size), expected.mask)
            assert labelled["value"].get("brushlabels", labelled["value"].get("labels")) == [label]


def test_a_run_that_is_killed_goes_on_and_makes_none_twice(studio, tmp_path):
    photos = {}
    for number in range(6):
        out = io.BytesIO()
        Image.open(io.BytesIO(FILES["coffee.jpg"])).rotate(number).save(out, "PNG")
        photos[f"p{number}.png"] = out.getvalue()
    project = studio.project("boxes killed", CONFIGS["brush"], photos)
    listed = studio.api("GET", f"/api/tasks/?project={project}&fields=all")["tasks"]
    for task in listed:
        result = [
            item
            for n, box in enumerate([({**CUP, "x": 5.0 + x}, "Cup") for x in range(12)])
            for item in drawn(*box, (600, 400), "brush", n)
        ]
        studio.api("POST", f"/api/tasks/{task['id']}/annotations/", {"result": result})

    def made():
        return [p["task"] for p in studio.api("GET", f"/api/predictions/?task__project={project}")]

    with subprocess.Popen(command(studio, project), cwd=ROOT, env=environment(studio, tmp_path)) as child:
        while not made():
            assert child.poll() is None
            time.sleep(0.05)
        child.kill()
    assert len(made()) < len(listed)
    subprocess.run(command(studio, project), cwd=ROOT, env=environment(studio, tmp_path), timeout=300, check=True)
    assert sorted(made()) == sorted(task["id"] for task in listed)
