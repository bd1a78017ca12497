"""A stand-in of Label Studio's API with a project."""

import json
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np

from tests.ls_backend.conftest import LEGACY, Studio, _Handler, png
from tests.training.finetuning.label_studio_exports import blob, brush

CONFIG = """<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image"><Label value="Cell"/>
</BrushLabels></View>"""
RNG = np.random.default_rng(1)


class Api(_Handler):
    """Projects and lists of tasks, with the filters and the order that the Data Manager of Label Studio has."""

    def do_GET(self):
        studio, parts = self.server, urlsplit(self.path)
        if not parts.path.startswith("/api/"):
            return super().do_GET()
        studio.calls.append(parts.path)
        if studio.gone:
            self.close_connection = True
            return None
        if self.headers.get("Authorization") not in (f"Token {LEGACY}", "Bearer short"):
            return self._json(401, {"detail": "Invalid token."})
        if studio.failures:
            return self.answer(studio.failures.pop(0))
        if parts.path in ("/api/version/", "/api/current-user/whoami"):
            studio.after_whoami()
            return self._json(200, {})
        if re.fullmatch(r"/api/projects/\d+/", parts.path):
            if "/4/" not in parts.path:
                return self._json(404, {"detail": "No Project matches the given query."})
            return self._json(200, {"id": 4, "label_config": CONFIG})
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        query = json.loads(asked["query"])
        assert (asked["project"], asked["fields"], asked["resolve_uri"], asked["page"]) == ("4", "all", "false", "1")
        assert query["ordering"] == ["tasks:id"]
        assert query["filters"]["conjunction"] == "and"
        found = sorted(studio.tasks, key=lambda task: task["id"])
        for item in query["filters"]["items"]:
            assert item["operator"] == "greater"
            name = item["filter"].removeprefix("filter:tasks:")
            found = [task for task in found if facts(task)[name] > item["value"]]
        shown = found[: int(asked["page_size"])][: studio.most]
        studio.after_page()  # before the answer is out: whoever asks next meets what it changed
        self._json(200, {"tasks": shown, "total": min(len(found), studio.most)})

    def _json(self, status, answer):
        self.answer(status, json.dumps(answer).encode(), **{"Content-Type": "application/json"})


def facts(task):
    return {"id": task["id"], "total_annotations": len([a for a in task["annotations"] if not a.get("was_cancelled")])}


class Project(Studio):
    def __init__(self):
        super().__init__()
        self.RequestHandlerClass = Api
        self.tasks, self.calls, self.failures = [], [], []
        self.most = 1000
        self.gone = False
        self.after_page = self.after_whoami = lambda: None

    def add(self, annotations=None, name=None):
        number = max((task["id"] for task in self.tasks), default=0) + 1
        address = f"/data/upload/1/{name or f'{number:08x}-photo {number}.png'}"
        self.files[address] = png(RNG.integers(0, 256, (40, 60, 3), np.uint8))
        made = [brush(blob((40, 60), number % 3), f"r{number}")]
        drawn = [{"id": 10 * number, "result": made, "updated_at": "2026-01-01T00:00:00Z", "was_cancelled": False}]
        annotations = drawn if annotations is None else annotations
        self.tasks.append({"id": number, "data": {"image": address}, "annotations": annotations, "drafts": []})
        return self.tasks[-1]


def numbers(folder):
    return [task["id"] for path in sorted(folder.glob("tasks-*.json")) for task in json.loads(path.read_text())]
