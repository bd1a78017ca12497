"""The warm-up command: CVAT's own SDK against a stand-in for its server, which passes clicks on to the real handler."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nuclio_sdk
import numpy as np
import pytest
from skimage import data

from icmformer.inference.cache import ByteLRU
from serverless import main, warm_up
from tests.serverless.conftest import coded

CAT = data.chelsea()
FRAMES = {number: np.roll(CAT, 20 * number, axis=1) for number in range(6)}
DELETED = 4
ALL = {"url": ""}


class CVAT(BaseHTTPRequestHandler):
    """What the command asks of CVAT's API, in the form that its SDK insists on.

    A task of two jobs that overlap by a frame, and a function.
    """

    def do_GET(self):
        if self.path.startswith("/api/server/about"):
            about = dict.fromkeys(("description", "subscription_url", "logo_url"), "")
            return self._say(200, about | {"name": "CVAT", "version": "2.80.0"})
        if self.headers.get("Authorization") != "Bearer good":
            return self._say(401, {"detail": "Invalid token."})
        if self.path.startswith("/api/users/self"):
            return self._say(200, {"id": 1, "username": "eve", "url": "http://c/", "groups": []})
        if self.path.startswith("/api/tasks/7"):
            jobs = {"count": 2, "completed": 0, "validation": 0, **ALL}
            more = {"organization": None, "organization_id": None}
            return self._say(200, {"id": 7, "name": "cats", "jobs": jobs, "labels": ALL, **more})
        if self.path.startswith("/api/jobs?"):
            return self._say(200, {"count": 2, "next": None, "previous": None, "results": [self._job(1), self._job(2)]})
        if "/data/meta" in self.path:
            return self._say(200, self._meta(int(self.path.split("/")[3])))
        if self.path.split("?")[0] in ("/api/jobs/1", "/api/jobs/2"):
            return self._say(200, self._job(int(self.path.split("?")[0][-1])))
        return self._say(404, {"detail": "Not found."})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/api/lambda/functions/icmformer":
            return self._say(404, {"detail": "no such function"})
        assert type(body["frame"]) is int
        self.server.asked.append((body["job"], body["frame"]))
        if body["frame"] in self.server.broken:
            return self._say(500, "the frame\ncannot be read")
        event = nuclio_sdk.Event(body={"image": coded(FRAMES[body["frame"]])} | body)
        reply = main.handler(self.server.context, event)
        return self._say(reply.status_code, json.loads(reply.body))

    def _job(self, number):
        first, last = {1: (0, 3), 2: (3, 5)}[number]
        more = {"issues": {"count": 0, "url": ""}, "labels": {"count": 0, "url": ""}}
        return {"id": number, "task_id": 7, "type": "annotation", "start_frame": first, "stop_frame": last, **more}

    def _meta(self, number):
        job = self._job(number)
        frames = [
            {"name": f"{n}.png", "width": 451, "height": 300, "related_files": 0}
            for n in range(job["start_frame"], job["stop_frame"] + 1)
        ]
        span = {
            "start_frame": 100,
            "stop_frame": 110,
            "chunks_updated_date": "2026-01-01T00:00:00Z",
        }  # of the source, not as the annotator counts
        return {"frames": frames, "deleted_frames": [DELETED], "image_quality": 70, **span}

    def _say(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def cvat(make_context, monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), CVAT)
    server.context, server.asked, server.broken = make_context(), [], set()
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "good")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield server
    server.shutdown()
    server.server_close()


def run(cvat, *words):
    return warm_up.main(["--server-host", cvat.address, *words])


def test_every_frame_of_a_task_is_seen_once_but_for_deleted_ones(cvat, capsys):
    assert run(cvat, "--task", "7") == 0
    assert cvat.asked == [(2, 5), (1, 3), (1, 2), (1, 1), (1, 0)]
    assert "5 of 5 frames seen" in capsys.readouterr().out


def test_the_annotators_first_click_then_finds_photo_and_features_kept(cvat):
    assert run(cvat, "--job", "2", "--frames", "5") == 0
    interactor = cvat.context.user_data.interactor
    body = {"image": coded(FRAMES[5]), "pos_points": [[170.5, 120.5]], "neg_points": [], "obj_bbox": []}
    assert interactor.respond(body).image_kept is True
    before = interactor.engine.caches.features.stats()
    interactor.respond(body | {"pos_points": [[300.5, 100.5]]})
    after = interactor.engine.caches.features.stats()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 0)
    assert interactor.respond(body | {"image": coded(FRAMES[1])}).image_kept is False


def test_where_not_all_fit_the_first_frames_stay_warm(cvat, make_context):
    interactor = cvat.context.user_data.interactor
    interactor.codec.images = ByteLRU(3 * CAT.nbytes)
    assert run(cvat, "--task", "7") == 0
    body = {"pos_points": [[170.5, 120.5]], "neg_points": [], "obj_bbox": []}
    for frame, kept in ((0, True), (2, True), (5, False)):
        assert interactor.respond(body | {"image": coded(FRAMES[frame])}).image_kept is kept, frame


def test_a_frame_that_fails_is_told_and_the_others_are_seen(cvat, capsys):
    cvat.broken = {1}
    assert run(cvat, "--job", "1") == 1
    out, err = capsys.readouterr()
    assert "3 of 4 frames seen" in out
    assert "frame 1 of job 1: 500:" in err
    assert "Traceback" not in err


def test_it_gives_up_when_everything_fails(cvat, capsys):
    cvat.broken = set(FRAMES)
    assert run(cvat, "--task", "7") == 1
    out, err = capsys.readouterr()
    assert "0 of 5" in out
    assert "5 frames in a row failed" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--job", "3"], "404"),
        (["--job", "1", "--frames", "50-60"], "no frame"),
        (["--job", "1", "--function", "other"], "404"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(cvat, capsys, words, said):
    assert run(cvat, *words) in (1, 2)
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_wrong_token_and_a_server_that_is_not_there_are_said_in_a_line(cvat, capsys, monkeypatch):
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "bad")
    assert run(cvat, "--job", "1") == 2
    assert "error: CVAT: 401" in capsys.readouterr().err
    assert warm_up.main(["--server-host", "http://127.0.0.1:1", "--job", "1"]) == 2
    assert "error: no CVAT answers at 127.0.0.1" in capsys.readouterr().err


def test_without_login_and_terminal_it_says_how_to_log_in(cvat, capsys, monkeypatch):
    monkeypatch.delenv("CVAT_ACCESS_TOKEN")
    monkeypatch.setattr("getpass.getpass", raising(EOFError))
    assert run(cvat, "--job", "1") == 2
    assert "CVAT_ACCESS_TOKEN" in capsys.readouterr().err


def raising(error):
    """A function that raises."""

    def fails(*args, **options):
        raise error

    return fails


@pytest.mark.parametrize("words", [["--job=1", "--frames=9-3"], ["--job=1", "--frames=a"], [], ["--job=x"]])
def test_options_that_cannot_be_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        warm_up.main(words)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
