"""What `icmformer doctor` finds at CVAT: against a server that answers as a real one does."""

import threading
from types import SimpleNamespace

import nuclio_sdk
import pytest
from icmformer.applications.serverless import doctor as checks_of_cvat

from icmformer.serving.core import ServingCore
from serverless import main
from serverless.interactor import CVATCodec
from serverless.settings import FunctionSettings
from tests.doctor import Doctor, Server, forget_environment, nobody, plant

TOKEN = "cvat-personal-access-token"
ABOUT, SELF, FUNCTIONS = "/api/server/about", "/api/users/self", "/api/lambda/functions"
JOBS, CALL = "/api/jobs?page_size=20", "/api/lambda/functions/icmformer"
LINES = ["cvat settings", "cvat", "cvat version", "cvat token", "cvat function", "cvat answer"]
OURS = {"id": "icmformer", "kind": "interactor", "name": "iCMFormer", "version": 2, "min_pos_points": 0}
OTHERS = [
    {"id": "pth-saic-vul-hrnet", "kind": "interactor", "name": "HRNET", "version": 2},
    {"id": "icmformer-detector", "kind": "detector", "name": "iCMFormer boxes", "version": 1},
]
GROUND_TRUTH = {"id": 9, "type": "ground_truth", "dimension": "2d", "start_frame": 0, "stop_frame": 90}
POINT_CLOUD = {"id": 8, "type": "annotation", "dimension": "3d", "start_frame": 0, "stop_frame": 0}
JOB = {"id": 7, "type": "annotation", "dimension": "2d", "start_frame": 40, "stop_frame": 79}
REFUSED = (
    "HTTPConnectionPool(host='host.docker.internal', port=49155): Max retries exceeded with url: / (Caused by "
    "NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f64a03a7a60>: Failed to establish a new "
    "connection: [Errno 111] Connection refused'))"
)
HANGS = "HTTPConnectionPool(host='host.docker.internal', port=49155): Read timed out. (read timeout=120)"


def error_of(status, reason):
    """What CVAT makes of a function that answers with an error."""
    kind = "Client" if status < 500 else "Server"
    return status, f"{status} {kind} Error: {reason} for url: http://host.docker.internal:49155/"


@pytest.fixture
def cvat():
    server = Server(
        {
            ABOUT: (200, {"name": "Computer Vision Annotation Tool", "version": "2.73.0"}),
            SELF: (200, {"id": 1, "username": "eve"}),
            FUNCTIONS: (200, [*OTHERS, OURS]),
            JOBS: (200, {"count": 3, "results": [GROUND_TRUTH, POINT_CLOUD, JOB]}),
        },
        tokens=(f"Bearer {TOKEN}",),
        public=(ABOUT,),
    )
    server.posts[CALL] = (200, {"shapes": []})
    yield server
    server.end()


@pytest.fixture
def doctor(capsys, monkeypatch, cvat):
    """Runs the command with CVAT's address and token in the environment."""
    forget_environment(monkeypatch)
    monkeypatch.setenv("CVAT_HOST", cvat.url)
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)
    return Doctor(capsys, TOKEN, "wrong-token")


def test_a_healthy_cvat_is_well_in_every_line(doctor):
    report = doctor()
    assert report.code == 0
    assert {report.state(name) for name in (*LINES, "clock")} == {"ok"}
    assert "2.73.0" in report.told("cvat")


def test_the_option_wins_and_without_a_token_the_rest_is_skipped(doctor, cvat, monkeypatch):
    monkeypatch.setenv("CVAT_HOST", nobody())
    monkeypatch.delenv("CVAT_ACCESS_TOKEN")
    report = doctor("--cvat", f"{cvat.url}/")
    assert report.code == 0
    assert {report.state(name) for name in ("cvat token", "cvat function", "cvat answer")} == {"skipped"}
    assert "CVAT_ACCESS_TOKEN" in report.checks["cvat token"]["advice"]
    assert [asked for asked, _ in cvat.asked] == [ABOUT]


NO_ADDRESS = "that is no address like https://"
DOWN = ["CVAT cannot reach the function", "cvat#10307", "docker ps"]


@pytest.mark.parametrize(
    ("faults", "line", "texts"),
    [
        ({"CVAT_HOST": "NOBODY"}, "cvat", ["nothing listens there", "-> start it, or set CVAT_HOST (--cvat)"]),
        ({"CVAT_HOST": "https://no.such.host.invalid"}, "cvat", ["the name does not resolve"]),
        ({"CVAT_HOST": "http://eve:wrong-token@localhost:1"}, "cvat", [NO_ADDRESS]),
        ({"CVAT_HOST": "http://a b"}, "cvat", [NO_ADDRESS]),
        ({"CVAT_HOST": "ftp://cvat"}, "cvat", [NO_ADDRESS]),
        ({"CVAT_HOST": "http://c:99999"}, "cvat", [NO_ADDRESS]),
        ({ABOUT: (404, b"404 page not found")}, "cvat", ["is not CVAT", "CVAT_HOST"]),
        ({ABOUT: (200, {"name": "x"})}, "cvat", ["is not CVAT", "CVAT_HOST"]),
        ({ABOUT: (502, b"")}, "cvat", ["down", "docker logs cvat_server"]),
        ({"ICMFORMER_CVAT_REPLY": "polygons"}, "cvat settings", ["ICMFORMER_CVAT_REPLY", "docs/cvat.md"]),
        ({"CVAT_ACCESS_TOKEN": "wrong-token"}, "cvat token", ["set CVAT_ACCESS_TOKEN"]),
        ({"CVAT_ACCESS_TOKEN": "wrong-token\nwith a line"}, "cvat token", ["set CVAT_ACCESS_TOKEN"]),
        ({"CVAT_ACCESS_TOKEN": "wrong-token-ü"}, "cvat token", ["set CVAT_ACCESS_TOKEN"]),
        ({FUNCTIONS: (200, OTHERS)}, "cvat function", ["HRNET", "deploy.sh"]),
        ({FUNCTIONS: (200, [])}, "cvat function", ["none", "deploy.sh"]),
        ({FUNCTIONS: (200, [OURS | {"version": 1}])}, "cvat function", ["grey", "deploy.sh"]),
        ({FUNCTIONS: (503, b"off")}, "cvat function", ["Nuclio does not answer", "docker-compose.serverless.yml"]),
        ({FUNCTIONS: (403, {})}, "cvat function", ["may not list", "use the token of a worker"]),
        ({CALL: (503, REFUSED)}, "cvat answer", [*DOWN, "host.docker.internal:49155", "deploy.sh", "--port"]),
        ({CALL: (503, REFUSED.replace("111] Connection refused", "101] Network is unreachable"))}, "cvat answer", DOWN),
        ({CALL: (503, "('Connection aborted.', RemoteDisconnected('...'))")}, "cvat answer", DOWN),
        ({CALL: (504, HANGS)}, "cvat answer", ["does not answer within", "504", "docker logs", "deploy.sh"]),
        ({CALL: error_of(503, "Service Unavailable")}, "cvat answer", ["no model, or all its workers", "docker logs"]),
        ({CALL: error_of(408, "Request Timeout")}, "cvat answer", ["status 408", "docker logs"]),
        ({CALL: error_of(400, "Bad Request")}, "cvat answer", ["maxRequestBodySize", "docker logs"]),
        ({CALL: error_of(500, "Internal Server Error")}, "cvat answer", ["status 500", "docker logs"]),
        (
            {CALL: (400, "The frame is outside the range")},
            "cvat answer",
            ["not ask", "outside the", "cvat_server"],
        ),
        ({CALL: (500, b"<html>Server Error</html>")}, "cvat answer", ["CVAT does not ask", "cvat_server"]),
        ({CALL: (200, ["no", "shapes"])}, "cvat answer", ["CVAT does not ask", "status 200"]),
    ],
)
def test_a_fault_is_found_in_its_line_alone(doctor, cvat, monkeypatch, faults, line, texts):
    plant(faults, cvat, monkeypatch)
    report = doctor()
    report.fails_in(line, *texts)
    assert {report.state(name) for name in LINES[LINES.index(line) + 1 :]} <= {"skipped"} or line == "cvat settings"


def test_a_name_without_scheme_is_taken_for_https(doctor, cvat):
    doctor("--cvat", cvat.url.removeprefix("http://")).fails_in("cvat", "does not speak https", "http://")
    assert cvat.asked == []


@pytest.mark.parametrize(
    ("version", "reply", "state", "remedy"),
    [
        ("2.73.0", "shapes", "ok", ""),
        ("2.60.0", "shapes", "ok", ""),
        ("2.59.1", "shapes", "failed", "ICMFORMER_CVAT_REPLY=mask"),
        ("2.59.1", "mask", "ok", ""),
        ("2.3.0", "mask", "ok", ""),
        ("2.2.9", "mask", "failed", "update CVAT"),
        ("1.7.0", "shapes", "failed", "update CVAT"),
        ("2.73.0", "mask", "warning", "ICMFORMER_CVAT_REPLY=shapes"),
        ("develop", "shapes", "warning", "2.60"),
    ],
)
def test_a_version_and_a_form_of_replies_that_do_not_go_together_are_found(
    doctor, cvat, monkeypatch, version, reply, state, remedy
):
    cvat.routes[ABOUT] = (200, {"name": "CVAT", "version": version})
    monkeypatch.setenv("ICMFORMER_CVAT_REPLY", reply)
    report = doctor()
    assert report.failed == (["cvat version"] if state == "failed" else [])
    assert report.state("cvat version") == state
    assert remedy in report.checks["cvat version"]["advice"]


@pytest.mark.parametrize("reply", ["shapes", "mask"])
def test_the_function_is_asked_through_cvat_as_a_click_asks_it_but_without_points(doctor, cvat, reply):
    """CVAT adds the frame of that job; the real handler answers without a look at it."""

    context = nuclio_sdk.Context()
    name = SimpleNamespace(name="none", sha256="0" * 64)
    no_engine = SimpleNamespace(weights=name, profile=SimpleNamespace(name="fast"), device="cpu")  # nobody may use it
    context.user_data.interactor = ServingCore(no_engine, CVATCodec(FunctionSettings(reply=reply)))

    def call(body):
        assert body["job"] == JOB["id"]
        assert JOB["start_frame"] <= body["frame"] <= JOB["stop_frame"]
        sent = {"image": "bm8gcGhvdG8=", **{key: body[key] for key in ("pos_points", "neg_points", "obj_bbox")}}
        event = nuclio_sdk.Event(body=sent, content_type="application/json")
        answer = main.handler(context, event)
        return answer.status_code, answer.body.encode()

    cvat.posts[CALL] = call
    report = doctor()
    assert report.state("cvat answer") == "ok", report.told("cvat answer")
    assert repr(reply) in report.told("cvat answer")


def test_a_function_that_hangs_is_not_waited_for_as_long_as_cvat_does(doctor, cvat, monkeypatch):
    assert 20 < checks_of_cvat._ANSWER_SECONDS < 120
    monkeypatch.setattr(checks_of_cvat, "_ANSWER_SECONDS", 0.3)
    over = threading.Event()
    cvat.posts[CALL] = lambda body: (504, HANGS) if over.wait(20) else None
    report = doctor()
    over.set()
    report.fails_in("cvat answer", "within 0.3 s", "-> all workers are busy")


@pytest.mark.parametrize("jobs", [(200, {"count": 0, "results": [GROUND_TRUTH]}), (403, {}), (200, ["odd"])])
def test_without_a_job_to_look_at_nothing_can_be_told(doctor, cvat, jobs):
    cvat.routes[JOBS] = jobs
    report = doctor()
    assert report.code == 0
    assert report.state("cvat answer") == "skipped"
    assert "make a task" in report.checks["cvat answer"]["advice"]


def test_a_user_who_may_not_call_functions_is_told_so(doctor, cvat):
    cvat.posts[CALL] = (403, {"detail": "You do not have permission to perform this action."})
    report = doctor()
    assert report.code == 0
    assert report.state("cvat answer") == "skipped"
    assert "403" in report.told("cvat answer")


def test_a_clock_an_hour_off_is_found_in_its_line_alone(doctor, cvat):
    cvat.clock = 3600
    doctor().fails_in("clock", "behind that of cvat")
