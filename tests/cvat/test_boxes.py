"""Rectangles of CVAT's jobs get masks, by the command, through the real cvat-sdk."""

import io
import json

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask, encode_mask
from PIL import Image
from skimage import data

from icmformer import Engine
from icmformer.cli.main import main
from icmformer.errors import PromptError
from icmformer.fetching import cvat as client
from icmformer.images.reading import LoadedImage
from icmformer.types import Box
from icmformer.weights import load
from serverless import boxes
from tests.conftest import TINY
from tests.cvat.standin import TOKEN, Job, Task
from tests.doctor import forget_environment, nobody

CAT = data.chelsea()[:120, :160]
HEIGHT, WIDTH = CAT.shape[:2]
LABELS = {1: "cat", 2: "eye"}


def png(shift=0):
    out = io.BytesIO()
    Image.fromarray(np.roll(CAT, shift, axis=1)).save(out, "PNG")
    return out.getvalue()


def rectangle(number, frame, points, label=1, **more):
    given = {"id": number, "type": "rectangle", "frame": frame, "label_id": label, "points": points, "source": "manual"}
    return {**given, "rotation": 0.0, "group": 0, "z_order": 0, "occluded": False, "attributes": [], **more}


def two_jobs():
    attributes = [{"spec_id": 4, "value": "tabby"}]
    first = [
        rectangle(1, 0, [10.5, 20, 90, 100], group=3, z_order=2, occluded=True, attributes=attributes),
        rectangle(2, 0, [100, 20, 150, 60], label=2),
        rectangle(3, 1, [30, 30, 110, 90], rotation=30.0),
        {**rectangle(4, 1, [1, 1, 5, 5]), "type": "polyline"},
    ]
    second = [rectangle(5, 2, [5, 5, 80, 110]), rectangle(6, 3, [5, 5, 80, 110])]
    frames = [(f"{n}.png", png(9 * n), WIDTH, HEIGHT) for n in range(4)]
    truth = Job(3, 0, 3, {"type": "ground_truth"}, [rectangle(7, 1, [5, 5, 80, 110])])
    return Task(7, frames, [Job(1, 0, 1, shapes=first), Job(2, 2, 3, shapes=second), truth], LABELS, deleted=(3,))


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs it as a user does; says what it said."""
    forget_environment(monkeypatch)
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)
    monkeypatch.setattr(client.Cvat.__init__, "__defaults__", (5.0, (0.01, 0.01)))
    monkeypatch.setattr(boxes.CvatBoxes.__init__, "__defaults__", ((0.01, 0.01),))

    def run(server, *words, where=("--task", "7"), threshold="0"):
        url = getattr(server, "url", server)
        code = main(["boxes", "cvat", "--url", url, *where, "--threshold", threshold, *words])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert TOKEN not in told.out + told.err
        return code, told.out + told.err

    return run


def added(server, job):
    return [shape for shape in server.jobs[job][1].shapes if shape["type"] == "mask"]


def patches(server):
    return [path for method, path in server.asked if method == "PATCH"]


def expected(frame, *box):
    """The engine's own mask on the frame, and its score."""
    engine = Engine(load(TINY), "cpu", "fast")
    image = LoadedImage.from_bytes(png(9 * frame), shown_by="cvat")
    found = engine.segment(image, box=Box(*box))
    return found.mask, found.score


def test_each_rectangle_gets_the_engines_mask_and_nothing_else_changes(serve, command):
    server = serve(two_jobs())
    before = json.dumps([job.shapes for _, job in server.jobs.values()])
    code, told = command(server)
    assert code == 0, told
    assert "4 boxes: 4 masks written" in told
    first, eye, turned = added(server, 1)
    for mask, box in ((first, (10.5, 20, 90, 100)), (eye, (100, 20, 150, 60))):
        pixels, score = expected(0, *box)
        np.testing.assert_array_equal(decode_mask(mask["points"], image_width=WIDTH, image_height=HEIGHT), pixels)
        assert mask["score"] == pytest.approx(score, abs=1e-3)
        assert (mask["source"], mask["frame"]) == ("auto", 0)
    assert (first["label_id"], eye["label_id"], turned["label_id"], turned["frame"]) == (1, 2, 1, 1)
    kept = {key: first[key] for key in ("group", "z_order", "occluded", "attributes")}
    assert kept == {"group": 3, "z_order": 2, "occluded": True, "attributes": [{"spec_id": 4, "value": "tabby"}]}
    assert len(added(server, 2)) == 1  # the other frame is deleted
    assert added(server, 3) == []  # ground truth
    after = [[shape for shape in job.shapes if shape["type"] != "mask"] for _, job in server.jobs.values()]
    assert json.dumps(after) == before
    assert len(patches(server)) == 3  # one for each frame


def test_the_same_command_adds_nothing_twice(serve, command, tmp_path):
    server = serve(two_jobs())
    command(server)
    frames = [path for _, path in server.asked if "type=frame" in path]
    server.asked.clear()
    code, told = command(server)
    assert (code, patches(server)) == (0, [])
    assert "4 masks written" in told
    assert not [path for _, path in server.asked if "type=frame" in path]
    assert len(frames) == 3
    for journal in (tmp_path / "cache" / "boxes").iterdir():
        journal.unlink()  # on another machine
    code, _ = command(server)
    assert (code, patches(server)) == (0, [])
    assert [len(added(server, job)) for job in (1, 2)] == [3, 1]


def test_the_journal_has_each_masks_score_and_number(serve, command, tmp_path):
    server = serve(two_jobs())
    command(server, "--journal", str(tmp_path / "j"), where=("--job", "2"))
    lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    (made,) = added(server, 2)
    assert lines[1]["record"] == [{"rectangle": 5, "mask": made["id"], "score": made["score"]}]
    assert added(server, 1) == []


def test_killed_between_cvats_success_and_the_journal_nothing_is_added_twice(serve, command, monkeypatch):
    server = serve(two_jobs())
    with monkeypatch.context() as killed:
        killed.setattr("icmformer.boxes.journal.Journal.note", stop)
        code, told = command(server)
    assert code == 130
    assert "run the same command to go on" in told
    known = [mask["id"] for mask in added(server, 1)]
    assert len(known) == 2
    assert command(server)[0] == 0
    assert [mask["id"] for mask in added(server, 1)][:2] == known
    assert [len(added(server, job)) for job in (1, 2)] == [3, 1]


def stop(*_):
    raise KeyboardInterrupt


def test_an_answer_that_is_lost_is_looked_for_in_the_job(serve, command):
    server = serve(two_jobs())
    server.faults = [("after PATCH", "drop", 1)]
    code, told = command(server)
    assert code == 0, told
    assert [len(added(server, job)) for job in (1, 2)] == [3, 1]
    assert len(patches(server)) == 3


def test_a_cvat_that_restarts_is_waited_for(serve, command):
    server = serve(two_jobs())
    server.faults = [("action=create", 503, 1), ("type=frame", "drop", 1)]
    code, told = command(server)
    assert code == 0, told
    assert [len(added(server, job)) for job in (1, 2)] == [3, 1]


def test_one_that_stays_away_ends_the_run_and_the_same_command_goes_on(serve, command):
    server = serve(two_jobs())
    server.faults = [("jobs/2/data\\?", "drop", 3)]
    code, told = command(server)
    assert code == 2
    assert "run the same command to go on" in told
    assert [len(added(server, job)) for job in (1, 2)] == [3, 0]
    server.asked.clear()
    assert command(server)[0] == 0
    assert [len(added(server, job)) for job in (1, 2)] == [3, 1]
    assert len(patches(server)) == 1
    code, told = command(nobody())
    assert code == 2
    assert "nothing listens there" in told


def test_masks_of_a_low_score_are_left_out(serve, command):
    server = serve(two_jobs())
    code, told = command(server, threshold="1")
    assert code == 0
    assert "0 masks written, 4 under the threshold" in told
    assert patches(server) == []


def test_a_frame_or_label_that_cannot_be_used_costs_itself(serve, command):
    task = two_jobs()
    task.files[2] = b"no photo"
    task.kinds = {2: "rectangle"}
    server = serve(task)
    server.faults = [("number=1&|number=1$", 500, 9)]
    code, told = command(server)
    assert code == 1
    assert "label 'eye' is for shapes of the type 'rectangle' alone: set it to any" in told
    assert "frame 1 of job 1" in told
    assert "frame 2 of job 2" in told
    assert [len(added(server, job)) for job in (1, 2)] == [1, 0]


@pytest.mark.parametrize(
    ("words", "text"), [(("--task", "8"), "task 8: CVAT answers 404"), (("--job", "9"), "job 9: CVAT answers 404")]
)
def test_what_is_not_there_is_said_in_a_line(serve, command, words, text):
    code, told = command(serve(two_jobs()), where=words)
    assert code == 2
    assert text in told


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135, 180, 210, 300, -20])
def test_a_turned_rectangle_is_taken_by_the_box_around_it(degrees):
    """Against the corners, turned by a matrix."""
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([50, 40])
    corners = np.array([[20, 30], [80, 30], [80, 50], [20, 50]]) - middle
    turned = corners @ matrix.T + middle
    box = boxes.upright([20, 30, 80, 50], degrees)
    np.testing.assert_allclose([box.x1, box.y1], turned.min(0), atol=1e-9)
    np.testing.assert_allclose([box.x2, box.y2], turned.max(0), atol=1e-9)
    with pytest.raises(PromptError):
        boxes.upright([20, 30, 80], degrees)


def test_ious_of_masks_are_those_of_their_pixels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.random((2, 9, 12)) > 0.6
        one[rng.integers(9) :] = other[:, : rng.integers(11)] = False
        if one.any() and other.any():
            exact = (one & other).sum() / (one | other).sum()
            assert boxes.iou(encode_mask(one), encode_mask(other)) == pytest.approx(exact)
    assert boxes.iou([1, 2, 3], encode_mask(np.ones((2, 2), bool))) == 0
