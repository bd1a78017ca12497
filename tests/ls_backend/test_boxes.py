"""`icmformer boxes label-studio` against a stand-in that keeps predictions as Label Studio does."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import threading
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from skimage import data

from icmformer import CleanUp, mask_to_polygons
from icmformer.cli.main import main
from tests.conftest import ROOT, TRAINED
from tests.ls_backend.conftest import BRUSH, LEGACY, POLYGON, SEVERAL, UNIFIED, Studio, _Handler
from tests.ls_backend.test_rle import decode

CAT = (26.6, 6.7, 46.6, 90.0)  # percent: x, y, width, height
CUP = (16.7, 20.0, 65.0, 67.5)
SIZES = {"cat": (451, 300), "cup": (600, 400)}


class Api(_Handler):
    """Pages of tasks, a task, and predictions, of one project with the number 4."""

    def _json(self, status, answer):
        self.answer(status, json.dumps(answer).encode(), **{"Content-Type": "application/json"})

    def do_GET(self):
        studio, parts = self.server, urlsplit(self.path)
        if not parts.path.startswith("/api/"):
            return super().do_GET()
        studio.calls.append(self.path)
        if self.headers.get("Authorization") != f"Token {LEGACY}":
            return self.answer(401)
        if studio.down:
            return self.answer(502)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/api/projects/4/":
            return self._json(200, {"id": 4, "label_config": studio.config, "task_number": len(studio.tasks)})
        if parts.path == "/api/version/":
            return self._json(200, {"release": "1.23.2"})
        if parts.path == "/api/tasks/":
            assert (query["fields"], query["project"], query["page"]) == ("all", "4", "1")
            size = min(int(query["page_size"]), studio.page)
            items = {i["filter"]: i["value"] for i in json.loads(query["query"])["filters"]["items"]}
            found = [task for task in studio.tasks if task["id"] > items["filter:tasks:id"]]
            if "filter:tasks:total_annotations" in items:
                found = [task for task in found if task["annotations"]]
            return self._json(200, {"tasks": [studio.whole(task) for task in found[:size]], "total": len(found)})
        if found := re.fullmatch(r"/api/tasks/(\d+)/", parts.path):
            return self._json(200, studio.whole(next(t for t in studio.tasks if t["id"] == int(found[1]))))
        return self.answer(404)

    def do_POST(self):
        studio = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/api/predictions/"
        assert set(body) == {"task", "result", "score", "model_version"}
        if body["task"] in studio.refused:
            return self._json(400, {"detail": "no such label"})
        studio.made.append({**body, "id": len(studio.made) + 1, "updated_at": "2026-02-01"})
        if len(studio.made) == studio.kill_at:  # between the server's success and the journal's line
            os.kill(studio.child.pid, signal.SIGKILL)
            studio.child.wait()
        if len(studio.made) == studio.lose_at:
            return self.answer(502)
        return self._json(201, studio.made[-1])


class Project(Studio):
    """Label Studio with a project."""

    def __init__(self, config=BRUSH):
        super().__init__()
        self.RequestHandlerClass = Api
        self.config, self.tasks, self.made, self.calls = config, [], [], []
        self.refused, self.kill_at, self.lose_at, self.child, self.down, self.page = (), 0, 0, None, False, 50

    def whole(self, task):
        made = [p for p in self.made if p["task"] == task["id"]]
        return {**task, "predictions": [*task.get("predictions", []), *made]}

    def add(self, *results, image="cat", **more):
        number = len(self.tasks) + 1
        drawn = [
            {"id": 100 * number + n, "result": result, "was_cancelled": False, "updated_at": f"2026-01-0{n + 1}"}
            for n, result in enumerate(results)
        ]
        self.tasks.append(
            {"id": number, "data": {"image": f"/data/upload/1/{image}.png"}, "annotations": drawn, **more}
        )
        return self.tasks[-1]


@pytest.fixture
def studio(monkeypatch, tmp_path, converted):
    made = Project()
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("LABEL_STUDIO_URL", made.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(converted))
    yield made
    made.shutdown()
    made.server_close()


def rectangle(box, label="Cat", image="cat", identity=None, kind="rectanglelabels", **more):
    x, y, width, height = box
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    if label is not None:
        value[kind] = [label]
    return {
        "id": identity or f"r{x}{y}{width}",
        "type": kind,
        "from_name": "box",
        "to_name": "image",
        "original_width": SIZES[image][0],
        "original_height": SIZES[image][1],
        "image_rotation": 0,
        "value": value,
        **more,
    }


OPTIONS = ("--project", "4", "--weights", TRAINED, "--device", "cpu", "--profile", "fast")


def run(*more):
    return main(["boxes", "label-studio", *OPTIONS, *more])


def expected(engine, box, image="cat"):
    width, height = SIZES[image]
    x, y, across, down = (v * side / 100 for v, side in zip(box, (width, height, width, height), strict=True))
    return engine.segment({"cat": data.chelsea, "cup": data.coffee}[image](), box=(x, y, x + across, y + down))


def mask_of(region):
    return decode(region["value"]["rle"]).reshape(region["original_height"], region["original_width"], 4)[..., 3] > 0


def test_rectangles_become_a_prediction_with_their_masks_and_nothing_else_is_touched(studio, fast, capsys):
    studio.page = 2
    studio.add([rectangle(CAT), rectangle((5, 5, 30, 60))])
    studio.add()
    studio.add([rectangle(CUP, "Cup", "cup"), {"type": "choices", "value": {"choices": ["x"]}}], image="cup")
    studio.add([rectangle(CAT)], [], [rectangle(CUP)])
    studio.tasks[3]["annotations"][2]["was_cancelled"] = True
    studio.add([rectangle(CAT, identity="a")], [rectangle((6, 6, 80, 80), identity="b")])
    studio.tasks[4]["annotations"][0]["ground_truth"] = True
    before = copy.deepcopy(studio.tasks)
    assert run("--threshold", "0") == 0
    assert "5 boxes: 5 masks written, 0 under the threshold, 0 failed" in capsys.readouterr().out
    assert studio.tasks == before
    assert [p["task"] for p in studio.made] == [1, 3, 4, 5]
    boxes = {1: [(CAT, "cat"), ((5, 5, 30, 60), "cat")], 3: [(CUP, "cup")], 4: [(CAT, "cat")], 5: [(CAT, "cat")]}
    for prediction in studio.made:
        results = [expected(fast, *box) for box in boxes[prediction["task"]]]
        assert prediction["model_version"] == f"icmformer starter {fast.weights.sha256[:8]} fast"
        assert prediction["score"] == pytest.approx(np.mean([r.score for r in results]), abs=1e-4)
        for region, result in zip(prediction["result"], results, strict=True):
            np.testing.assert_array_equal(mask_of(region), result.mask)
            label = ["Cup" if prediction["task"] == 3 else "Cat"]
            assert (region["from_name"], region["type"], region["value"]["brushlabels"]) == (
                "brush",
                "brushlabels",
                label,
            )
            assert region["score"] == round(result.score, 4)
    made, calls = [*studio.made], len(studio.calls)
    assert run("--threshold", "0", "--device", "cuda:77") == 0  # a finished run asks for its tasks, and that is all
    assert studio.made == made
    assert len(studio.calls) == calls + 4
    studio.tasks[0]["annotations"][0]["result"].append(rectangle((50, 50, 40, 40)))
    assert run("--threshold", "0") == 0  # of a new rectangle alone
    assert [len(p["result"]) for p in studio.made[len(made) :]] == [1]


def test_turned_rectangles_several_images_and_predictions(studio, fast, monkeypatch):
    turned = rectangle((50, 10, 40, 60))
    turned["value"]["rotation"] = 90.0
    studio.add([turned])
    studio.add(predictions=[{"id": 9, "result": [rectangle(CAT)], "model_version": "detector", "updated_at": "2026"}])
    assert run("--threshold", "0") == 0
    assert [p["task"] for p in studio.made] == [1]
    corner, across, down = (451 * 0.5, 300 * 0.1), 451 * 0.4, 300 * 0.6
    box = (corner[0] - down, corner[1], corner[0], corner[1] + across)  # a quarter turn around the corner
    np.testing.assert_array_equal(mask_of(studio.made[0]["result"][0]), fast.segment(data.chelsea(), box=box).mask)
    assert run("--threshold", "0", "--predictions") == 0
    assert [p["task"] for p in studio.made] == [1, 2]
    np.testing.assert_array_equal(mask_of(studio.made[1]["result"][0]), expected(fast, CAT).mask)


def test_several_images_of_a_task(studio, fast):
    studio.config = SEVERAL
    pages = ["/data/upload/1/cat.png", "/data/upload/1/cup.png"]
    task = studio.add(
        [
            rectangle(CAT, to_name="left"),
            rectangle(CUP, to_name="right", item_index=1, image="cup"),
            rectangle(CAT, to_name="right", item_index=0, identity="p0"),
        ]
    )
    task["data"] = {"left": pages[0], "pages": pages}
    assert run("--threshold", "0") == 0
    (made,) = studio.made
    assert [(r["from_name"], r["to_name"], r.get("item_index")) for r in made["result"]] == [
        ("brushl", "left", None),
        ("brushr", "right", 1),
        ("brushr", "right", 0),
    ]
    for region, box in zip(made["result"], ((CAT, "cat"), (CUP, "cup"), (CAT, "cat")), strict=True):
        np.testing.assert_array_equal(mask_of(region), expected(fast, *box).mask)


def test_the_control_for_masks_that_the_config_has(studio, fast):
    studio.config = UNIFIED
    labelled = rectangle(CAT, None, kind="rectangle")
    studio.add([labelled, {**labelled, "type": "labels", "value": {**labelled["value"], "labels": ["Cat"]}}])
    assert run("--threshold", "0") == 0
    plain, label = studio.made[0]["result"]
    assert (plain["type"], label["type"], label["value"]["labels"]) == ("brush", "labels", ["Cat"])
    assert plain["id"] == label["id"]
    studio.config, studio.tasks, studio.made = POLYGON, [], []
    studio.add([rectangle(CAT)])
    assert run("--threshold", "0") == 0
    mask = expected(fast, CAT).mask
    polygons = mask_to_polygons(CleanUp(fill_holes=mask.size)(mask), 200)
    found = studio.made[0]["result"]
    assert [r["type"] for r in found] == ["polygonlabels"] * len(polygons)
    for region, polygon in zip(found, polygons, strict=True):
        np.testing.assert_allclose(np.array(region["value"]["points"]) * [4.51, 3], polygon.exterior, atol=1e-6)


def test_what_fails_costs_itself_and_is_counted(studio, capsys):
    studio.add([rectangle(CAT, "Dog"), rectangle(CAT, identity="good"), rectangle((120, 5, 5, 5))])
    studio.add([rectangle(CAT)], image="none")
    studio.add([rectangle(CAT)], image="text")
    studio.add([rectangle(CAT)])
    studio.add([rectangle(CAT)], image="cup")  # drawn on an image of another size
    studio.refused = (4,)
    assert run("--threshold", "0") == 1
    told = capsys.readouterr()
    assert "7 boxes: 1 masks written, 0 under the threshold, 6 failed" in told.out
    assert "bad request 3" in told.out
    assert "unusable image 2" in told.out
    assert "image not fetched 1" in told.out
    assert "no such label" in told.err
    assert LEGACY not in told.out + told.err
    assert [len(p["result"]) for p in studio.made] == [1]
    studio.refused = ()
    assert run("--threshold", "0") == 1
    assert [p["task"] for p in studio.made] == [1, 4]
    assert "2 masks written" in capsys.readouterr().out


def test_a_kill_between_success_and_journal_makes_none_twice(studio):
    for box in (CAT, (5, 5, 30, 60), (10, 10, 60, 80)):
        studio.add([rectangle(box)])
    studio.kill_at = 2
    words = [sys.executable, "-m", "icmformer", "boxes", "label-studio", *OPTIONS, "--threshold", "0"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as studio.child:
        told = studio.child.communicate(timeout=120)[1]
    assert studio.child.returncode == -signal.SIGKILL, told
    assert [p["task"] for p in studio.made] == [1, 2]
    assert run("--threshold", "0") == 0
    assert [p["task"] for p in studio.made] == [1, 2, 3]


def test_label_studio_that_goes_away(studio, monkeypatch, capsys):
    monkeypatch.setattr("ls_backend.boxes.time.sleep", lambda seconds: None)
    studio.add([rectangle(CAT)])
    studio.add([rectangle(CAT)], image="none")
    studio.lose_at = 1  # the answer, not the prediction
    assert run("--threshold", "0") == 1
    assert len(studio.made) == 1
    studio.down = True
    capsys.readouterr()
    assert run("--threshold", "0") == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "502" in error[0]


def test_what_is_missing_is_said_in_a_line(studio, monkeypatch, capsys):
    studio.config = re.sub(r"<BrushLabels.*</BrushLabels>", "", BRUSH)
    assert run() == 2
    assert "has no BrushLabels" in capsys.readouterr().err
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "wrong")
    assert run() == 2
    assert "LABEL_STUDIO_API_KEY" in capsys.readouterr().err
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    assert run() == 2
    assert "LABEL_STUDIO_API_KEY" in capsys.readouterr().err
    monkeypatch.delenv("LABEL_STUDIO_URL")
    assert run() == 2
    assert "--url" in capsys.readouterr().err
