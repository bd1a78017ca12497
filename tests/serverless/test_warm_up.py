"""The warm-up command: CVAT's own SDK against a stand-in for its server, which passes clicks on to the real handler."""

import json

import nuclio_sdk
import numpy as np
import pytest
from skimage import data

from icmformer.inference.cache import ByteLRU
from serverless import main, warm_up
from tests.cvat.standin import TOKEN, Job, StandIn, Task
from tests.serverless.conftest import coded

CAT = data.chelsea()
FRAMES = {number: np.roll(CAT, 20 * number, axis=1) for number in range(6)}
DELETED = 4


@pytest.fixture
def cvat(make_context, monkeypatch, tmp_path):
    """A task of two jobs that overlap by a frame, and a function."""
    photos = [(f"{number}.png", b"", 451, 300) for number in FRAMES]
    server = StandIn(Task(7, photos, [Job(1, 0, 3), Job(2, 3, 5)], {}, deleted=(DELETED,), start=100))
    server.context, server.clicked, server.broken = make_context(), [], set()

    def function(body):
        assert type(body["frame"]) is int
        server.clicked.append((body["job"], body["frame"]))
        if body["frame"] in server.broken:
            return 500, "the frame\ncannot be read"
        event = nuclio_sdk.Event(body={"image": coded(FRAMES[body["frame"]])} | body)
        reply = main.handler(server.context, event)
        return reply.status_code, json.loads(reply.body)

    server.functions["icmformer"] = function
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    yield server
    server.end()


def run(cvat, *words):
    return warm_up.main(["--server-host", cvat.url, *words])


def test_every_frame_of_a_task_is_seen_once_but_for_deleted_ones(cvat, capsys):
    assert run(cvat, "--task", "7") == 0
    assert cvat.clicked == [(2, 5), (1, 3), (1, 2), (1, 1), (1, 0)]
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
    interactor.codec.images = ByteLRU(3 * (CAT.nbytes + max(len(coded(frame)) for frame in FRAMES.values())))
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
