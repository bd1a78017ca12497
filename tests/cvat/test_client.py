"""CVAT's API through the real cvat-sdk: what is tried again, what is refused, and in which words."""

import sys
import time

import pytest
from cvat_sdk import make_client

from icmformer.errors import ConfigError
from icmformer.fetching.cvat import Cvat, CvatError
from icmformer.fetching.settings import CvatSettings
from tests.cvat.standin import TOKEN, Job, Task
from tests.doctor import nobody
from tests.training.finetuning import cvat_exports as exports

JOBS = [Job(number, 0, 0) for number in range(1, 8)]


def task(**more):
    return Task(7, [("a.png", b"file", 60, 40)], JOBS, {1: "nucleus"}, **more)


def test_what_the_stand_in_says_is_what_the_sdk_insists_on(serve):
    """Every answer, through the SDK's own models, which check their form."""
    shape = {**exports.ellipse_shape(9, 9, 3, 2).to_dict(), "type": "ellipse", "id": 5, "score": 0.5}
    job = Job(3, 0, 0, shapes=[shape], tags=[{"id": 1, "frame": 0, "label_id": 1}])
    server = serve(Task(7, [("a.png", b"file", 60, 40)], [job], {1: "nucleus"}, project=2))
    with make_client(server.url, access_token=TOKEN) as client:
        read = client.jobs.retrieve(3)
        assert [label.name for label in read.get_labels()] == ["nucleus"]
        assert read.get_meta().frames[0].name == "a.png"
        assert read.get_frame(0, quality="original").read() == b"file"
        (found,) = read.get_annotations().shapes
        assert (found.id, str(found.type), list(found.points)) == (5, "ellipse", [9, 9, 12, 7])
        assert [job.id for job in client.tasks.retrieve(7).get_jobs()] == [3]
        assert client.projects.retrieve(2).id == 2
        assert client.get_server_version().major == 2


def test_jobs_come_by_pages(serve, reach):
    server = serve(task())
    server.page_size = 3
    assert [job["id"] for job in reach(server).jobs(task_id=7)] == list(range(1, 8))
    assert len(server.asked) == 3


@pytest.mark.parametrize(("gone", "pages"), [(1, 2), (5, 1)])
def test_a_job_that_goes_between_two_pages_hides_no_other(serve, reach, gone, pages):
    server = serve(task())
    server.page_size = 5

    def delete(method, path):
        if len(server.asked) == 1:
            server.tasks[7].jobs = server.tasks[7].jobs[gone:]

    server.after = delete
    assert [job["id"] for job in reach(server).jobs(task_id=7)] == list(range(1 + gone, 8))
    assert len(server.asked) == 2 + pages


def test_a_list_that_changes_for_ever_is_said_to(serve, reach):
    server = serve(task())
    server.page_size = 5

    def add(method, path):
        server.tasks[7].jobs = [*server.tasks[7].jobs, server.tasks[7].jobs[-1]]

    server.after = add
    with pytest.raises(CvatError, match="changes while it is read"):
        reach(server).jobs(task_id=7)


@pytest.mark.parametrize("what", [500, 502, 503, 504, 429, "drop"])
def test_a_server_in_trouble_is_asked_again(serve, reach, capsys, what):
    server = serve(task())
    server.faults = [("/api/jobs/3", what, 2)]
    assert reach(server).job(3)["id"] == 3
    assert capsys.readouterr().err.count("trying again in 0.01 s") == 2


@pytest.mark.parametrize(
    ("what", "text"), [(503, "CVAT answers 503: .*out of order"), ("drop", "broke the connection")]
)
def test_one_that_stays_so_ends_in_a_typed_error(serve, reach, what, text):
    server = serve(task())
    server.faults = [("/api/jobs/3", what, 9)]
    with pytest.raises(CvatError, match=text) as told:
        reach(server).job(3)
    assert told.value.passing
    assert server.faults[0][2] == 9 - 3


def test_it_waits_as_long_as_cvat_asks_for(serve, reach):
    server = serve(task())
    server.faults, server.retry_after = [("/api/jobs/3", 429, 1)], 1
    began = time.monotonic()
    reach(server).job(3)
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("status", "text"),
    [(403, "403: it is not there, or the token's user may not"), (404, "404: it is not there"), (400, "answers 400")],
)
def test_a_refusal_is_not_asked_again(serve, reach, status, text):
    server = serve(task())
    server.faults = [("/api/jobs/3", status, 9)]
    with pytest.raises(CvatError, match=text) as told:
        reach(server).job(3)
    assert told.value.status == status
    assert server.faults[0][2] == 8


def test_a_wrong_token_is_named_and_not_shown(serve, reach):
    with pytest.raises(CvatError, match=r"does not take CVAT_ACCESS_TOKEN .*make a personal access token") as told:
        reach(serve(task()), token="secret-token").job(3)
    assert "secret-token" not in str(told.value)


def test_a_redirect_is_told_and_nobody_else_is_asked(serve, reach):
    server, other = serve(task()), serve(task())
    server.faults, server.location = [("/api/jobs/3", 301, 1)], f"{other.url}/api/jobs/3"
    with pytest.raises(CvatError, match=f"redirects to {other.url}"):
        reach(server).job(3)
    assert other.asked == []


def test_a_file_over_the_limit_is_refused(serve, reach):
    server = serve(task(files={0: b"x" * 2000}))
    assert len(reach(server, limit=2000).frame(3, 0)) == 2000
    with pytest.raises(CvatError, match="ICMFORMER_MAX_IMAGE_MB"):
        reach(server, limit=1999).frame(3, 0)


def test_frames_come_in_their_original_quality(serve, reach):
    assert reach(serve(task())).frame(3, 0) == b"file"


@pytest.mark.parametrize(
    ("url", "text"),
    [("NOBODY", "nothing listens there"), ("http://no.such.host.invalid", "the name does not resolve")],
)
def test_an_address_at_which_there_is_no_cvat(url, text):
    with pytest.raises(CvatError, match=text):
        Cvat(url.replace("NOBODY", nobody()), TOKEN, 1, pauses=()).about()


def test_address_and_token_come_from_the_environment():
    env = {"CVAT_HOST": " cvat.example.org/ ", "CVAT_ACCESS_TOKEN": " abc "}
    own = CvatSettings.from_environment(env)
    assert (own.host, own.token) == ("https://cvat.example.org", "abc")
    with pytest.raises(ConfigError, match="CVAT_HOST"):
        CvatSettings.from_environment({"CVAT_HOST": "http://eve:pw@c"})
    with pytest.raises(ConfigError, match="CVAT_ACCESS_TOKEN"):
        Cvat.from_settings(CvatSettings.from_environment({"CVAT_HOST": "http://c"}))
    with pytest.raises(ConfigError, match="CVAT_HOST"):
        Cvat.from_settings(CvatSettings.from_environment({"CVAT_ACCESS_TOKEN": "a"}))


def test_an_addition_is_tried_once(serve, reach):
    server = serve(Task(7, [("a.png", b"file", 60, 40)], [Job(1, 0, 0)], {1: "nucleus"}))
    new = {"type": "mask", "frame": 0, "label_id": 1, "points": [0.0, 4.0, 0.0, 0.0, 1.0, 1.0], "source": "auto"}
    (made,) = reach(server).add_shapes(1, [{**new, "score": 0.75}])
    assert (made["score"], made["source"]) == (0.75, "auto")
    server.faults = [("after PATCH", "drop", 1)]
    with pytest.raises(CvatError) as told:
        reach(server).add_shapes(1, [new])
    assert told.value.passing
    assert len(server.jobs[1][1].shapes) == 2
    with pytest.raises(CvatError, match="Invalid points"):
        reach(server).add_shapes(1, [{**new, "points": [0.0, 3.0, 0.0, 0.0, 1.0, 1.0]}])


def test_without_the_sdk_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvat_sdk", None)  # importing it fails
    with pytest.raises(ConfigError, match="this needs CVAT's SDK: pip install cvat-sdk"):
        Cvat("http://c", TOKEN, 1)
