"""A stand-in for CVAT's server: its API as cvat-sdk's models have it, over loopback, good enough for the real SDK.

What a server does beyond that (its own checks of shapes, exports, the page) only a real CVAT shows.
"""

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

DATE = "2026-01-01T00:00:00Z"
TOKEN = "cvat-token-of-the-stand-in"
EVE = {"id": 1, "username": "eve", "url": "http://c/"}
SOURCES = ("auto", "semi-auto", "manual", "file", "consensus")
PLACE = {"url": "", "count": 0}


@dataclass
class Job:
    """A job: the frames of its span, and what is on them, as the API has it."""

    number: int
    first: int
    last: int
    facts: dict = field(default_factory=dict)
    shapes: list = field(default_factory=list)
    tracks: list = field(default_factory=list)
    tags: list = field(default_factory=list)


@dataclass
class Task:
    """A task. `frames`: (name, file, width, height) of each; of a video the first stands for all.

    `files`: by frame number, in place of the file of `frames`. `kinds`: types of labels that are not "any".
    """

    number: int
    frames: list
    jobs: list
    labels: dict
    mode: str = "annotation"
    project: int | None = None
    subset: str = ""
    deleted: tuple = ()
    files: dict = field(default_factory=dict)
    start: int = 0
    step: int = 1
    kinds: dict = field(default_factory=dict)
    honeypots: tuple = ()


class StandIn(ThreadingHTTPServer):
    """CVAT with some tasks.

    Attributes:
        asked: (method, path with query) of each request that was let in.
        faults: What goes wrong: (pattern of a path, status or "drop", times), the first that fits and is left.
        page_size: Most entries of a page, whatever is asked for.
        functions: Name -> what answers a call of a function with status and content.
        after: Called with (method, path) once a request has been carried out, before it is answered.
    """

    daemon_threads = True

    def __init__(self, *tasks):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tasks = {task.number: task for task in tasks}
        self.asked, self.faults, self.page_size, self.functions = [], [], 100, {}
        self.after = lambda method, path: None
        self.retry_after = None
        self.location = None
        self.lock, self.next_id = threading.Lock(), 1000
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def jobs(self):
        return {job.number: (task, job) for task in self.tasks.values() for job in task.jobs}

    def handle_error(self, *_):
        """Callers that have gone are no news."""

    def end(self):
        self.shutdown()
        self.server_close()

    def fault(self, path):
        for place, (pattern, what, times) in enumerate(self.faults):
            if times and re.search(pattern, path):
                self.faults[place] = (pattern, what, times - 1)
                return what
        return None


class _RefusedError(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer("GET", None)

    def do_POST(self):
        self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_PATCH(self):
        self._answer("PATCH", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, method, body):
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = parts.path.rstrip("/")
        fault = self.server.fault(self.path)
        if fault == "drop":
            self.close_connection = True
            return self.connection.close()
        if fault:
            return self._say(fault, {"detail": "out of order"})
        if path == "/api/server/about":
            about = dict.fromkeys(("description", "subscription_url", "logo_url", "subtitle"), "")
            return self._say(200, about | {"name": "CVAT", "version": "2.80.0"})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, {"detail": "Invalid token."})
        self.server.asked.append((method, self.path))
        try:
            status, content = self._found(method, path, query, body)
        except _RefusedError as error:
            return self._say(400, {"detail": str(error)})
        except KeyError:
            return self._say(404, {"detail": "Not found."})
        self.server.after(method, self.path)
        if self.server.fault(f"after {method} {self.path}") == "drop":
            self.close_connection = True
            return self.connection.close()
        return self._say(status, content)

    def _found(self, method, path, query, body):
        server = self.server
        if path == "/api/users/self":
            return 200, EVE | {"groups": []}
        if path == "/api/jobs" or path == "/api/labels":
            return 200, self._page(list(self._listed(path, query)), path, query)
        kind, _, rest = path.removeprefix("/api/").partition("/")
        if kind == "lambda" and method == "POST":
            return server.functions[rest.removeprefix("functions/")](body)
        number, _, rest = rest.partition("/")
        if kind == "projects":
            if all(task.project != int(number) for task in server.tasks.values()):
                raise KeyError(number)
            return 200, {"id": int(number), "name": "all", "tasks": PLACE, "labels": PLACE, "organization": None}
        if kind == "tasks" and not rest:
            return 200, self._task(server.tasks[int(number)])
        if kind == "tasks" and rest == "validation_layout":
            layout = {"mode": "gt_pool", "honeypot_frames": list(server.tasks[int(number)].honeypots)}
            return 200, layout | {"validation_frames": [0], "disabled_frames": [], "honeypot_real_frames": [0]}
        if kind == "jobs":
            task, job = server.jobs[int(number)]
            if not rest:
                return 200, self._job(task, job)
            if rest == "data/meta":
                return 200, self._meta(task, job)
            if rest == "data":
                return 200, self._frame(task, job, query)
            if rest == "annotations":
                return 200, self._created(task, job, query, body) if method == "PATCH" else self._annotations(job)
        raise KeyError(path)

    def _listed(self, path, query):
        for task in self.server.tasks.values():
            if path == "/api/labels":
                if any(job.number == int(query["job_id"]) for job in task.jobs):
                    for number, name in task.labels.items():
                        yield {
                            "id": number,
                            "name": name,
                            "type": task.kinds.get(number, "any"),
                            "attributes": [],
                            "sublabels": [],
                        }
            elif query.get("task_id") == str(task.number) or query.get("project_id") == str(task.project):
                yield from (self._job(task, job) for job in task.jobs)

    def _page(self, entries, path, query):
        size, page = min(self.server.page_size, int(query.get("page_size", 10))), int(query.get("page", 1))
        chosen, more = entries[(page - 1) * size : page * size], page * size < len(entries)
        onward = f"{self.server.url}{path}?page={page + 1}" if more else None
        return {"count": len(entries), "next": onward, "previous": None, "results": chosen}

    def _task(self, task):
        jobs = {"count": len(task.jobs), "completed": 0, "validation": 0, "url": ""}
        found = {"id": task.number, "name": f"task {task.number}", "mode": task.mode, "subset": task.subset}
        more = {"organization": None, "organization_id": None, "dimension": "2d", "project_id": task.project}
        more["validation_mode"] = "gt_pool" if task.honeypots else None
        return found | {"jobs": jobs, "labels": PLACE, "updated_date": DATE, **more}

    def _job(self, task, job):
        found = {"id": job.number, "task_id": task.number, "project_id": task.project, "dimension": "2d"}
        found |= {"start_frame": job.first, "stop_frame": job.last, "mode": task.mode, "type": "annotation"}
        found |= {"stage": "annotation", "state": "in progress", "assignee": EVE, "organization": None}
        return found | {"issues": PLACE, "labels": PLACE, "updated_date": DATE, **job.facts}

    def _meta(self, task, job):
        span = range(job.first, job.last + 1)
        frames = task.frames[:1] if task.mode == "interpolation" else [task.frames[number] for number in span]
        named = [{"name": n, "width": w, "height": h, "related_files": 0} for n, _, w, h in frames]
        source = {  # as the source counts, not the annotator
            "start_frame": task.start + job.first * task.step,
            "stop_frame": task.start + job.last * task.step,
            "frame_filter": f"step={task.step}" if task.step > 1 else "",
        }
        gone = [number for number in task.deleted if number in span]
        more = {"chapters": None, "included_frames": None, "chunk_size": 36, "size": len(span), "image_quality": 70}
        return {"frames": named, "deleted_frames": gone, "chunks_updated_date": DATE, **source, **more}

    def _frame(self, task, job, query):
        number = int(query["number"])
        if query["type"] != "frame" or not job.first <= number <= job.last:
            raise _RefusedError("The frame number doesn't belong to the job")
        if number in task.files:
            return task.files[number]
        content = task.frames[0 if task.mode == "interpolation" else number][1]
        return content if query["quality"] == "original" else b"a smaller picture"

    def _annotations(self, job):
        return {"version": 0, "tags": job.tags, "shapes": job.shapes, "tracks": job.tracks}

    def _created(self, task, job, query, body):
        if query.get("action") != "create":
            raise AssertionError(f"asked to {query.get('action')} annotations")
        for shape in body.get("shapes", ()):
            *runs, left, top, right, bottom = shape["points"]
            if shape["label_id"] not in task.labels or not job.first <= shape["frame"] <= job.last:
                raise _RefusedError("label_id or frame is not of the job")
            if shape["type"] == "mask" and sum(runs) != (right - left + 1) * (bottom - top + 1):
                raise _RefusedError("Invalid points")
            if shape["source"] not in SOURCES or not 0 <= shape.get("score", 1) <= 1:
                raise _RefusedError("Invalid source or score")
        defaults = {"occluded": False, "outside": False, "z_order": 0, "rotation": 0.0, "group": 0, "score": 1.0}
        with self.server.lock:
            added = []
            for shape in body.get("shapes", ()):
                self.server.next_id += 1
                added.append({**defaults, "attributes": [], "elements": [], **shape, "id": self.server.next_id})
            job.shapes.extend(added)
        return {"version": 0, "tags": [], "shapes": added, "tracks": []}

    def _say(self, status, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        kind = "image/png" if isinstance(value, bytes) else "application/vnd.cvat+json"
        self.send_header("Content-Type", kind)
        if self.server.retry_after and status == 429:
            self.send_header("Retry-After", str(self.server.retry_after))
        if self.server.location and 300 <= status < 400:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
