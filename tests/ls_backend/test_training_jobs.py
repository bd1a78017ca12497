"""Trainings as processes: one at a time, told of, gone on with, cleaned up. A small program trains in their place."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from icmformer.serving.errors import RequestError, TrainingRefusedError
from icmformer.weights.pointer import LOCK_FILE
from ls_backend.training_follower import Follower
from ls_backend.training_jobs import project_of
from ls_backend.training_runs import RUNS_KEPT, SMALL_FILES, Run, Runs, try_lock
from tests.ls_backend.trainings import DRAWN, Told, Trainings, ended, process_of, trains, wait_for


@pytest.fixture
def trainings(tmp_path):
    made = Trainings(tmp_path)
    yield made
    if made.root.exists():
        made.end()
        runs = Runs(made.root)
        wait_for(lambda: not runs.training())


def press(project=3):
    return {"action": "START_TRAINING", "project": {"id": project, "title": "any"}}


def test_a_press_starts_a_process_with_what_it_needs_and_no_secret_where_others_see_it(trainings, monkeypatch):
    for name in ("BASIC_AUTH_PASS", "PROMETHEUS_MULTIPROC_DIR", "ICMFORMER_CLICK_LOG"):
        monkeypatch.setenv(name, "/none")
    jobs = trainings.jobs(training_options=("--samples", "160", "--threads=2", "--accepted"))
    reply = jobs.press(press())
    assert reply == {"status": "started", "job": "project-3/run-1", "told": "starts project-3/run-1"}
    status = trains(jobs)
    assert (status["project"], status["run"], status["total"]) == (3, "project-3/run-1", 100)
    run = trainings.run("project-3/run-1")
    trainings.end(state="promoted", version="project-3-0001", reason="-2.00 clicks an object")
    status = ended(jobs)
    assert [status[name] for name in ("state", "version", "reason")] == [
        "promoted",
        "project-3-0001",
        "-2.00 clicks an object",
    ]
    seen = json.loads((run / "seen.json").read_text())
    store = str(trainings.store)
    expected = ["--label-studio", "http://studio.example:8080", "--project", "3", "--weights", store]
    expected += ["--promote", store, "--out", str(run), "--name", "project-3"]
    assert seen["argv"] == [*expected, "--samples", "160", "--threads=2", "--accepted"]
    assert seen["nice"] == 19
    assert seen["leads"]  # a session of its own: what ends the backend's does not end it
    environment = seen["environment"]
    assert environment["LABEL_STUDIO_API_KEY"] == "secret-token"
    assert (environment["OMP_NUM_THREADS"], environment["ICMFORMER_THREADS"]) == ("2", "2")
    assert not {"BASIC_AUTH_PASS", "PROMETHEUS_MULTIPROC_DIR", "ICMFORMER_CLICK_LOG"} & set(environment)
    (run / "seen.json").unlink()  # the stand-in's own
    for path in trainings.root.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path


def test_without_threads_half_of_the_cpus_train(trainings):
    jobs = trainings.jobs()
    jobs.press(press())
    trainings.end()
    ended(jobs)
    seen = json.loads((trainings.run("project-3/run-1") / "seen.json").read_text())
    half = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert seen["argv"][-2:] == ["--threads", half]
    assert seen["environment"]["OMP_NUM_THREADS"] == half


def test_of_many_presses_at_once_on_two_backends_one_starts(trainings):
    backends = [trainings.jobs(), trainings.jobs()]
    together = threading.Barrier(8)

    def one(number):
        together.wait()
        return backends[number % 2].press(press())

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(one, range(8)))
    assert sorted(reply["status"] for reply in replies) == ["running"] * 7 + ["started"]
    assert {reply["job"] for reply in replies} == {"project-3/run-1"}
    other = backends[1].press(press(project=4))
    assert other["status"] == "running"
    assert "project-3/run-1" in other["told"]
    assert "job" not in other
    assert not trainings.run("project-4").exists()
    trainings.end()
    ended(backends[0])
    assert backends[1].press(press(project=4))["job"] == "project-4/run-1"


def test_each_press_is_a_new_run_but_one_after_a_kill_goes_on(trainings):
    jobs = trainings.jobs()
    jobs.press(press())
    trains(jobs)
    run = trainings.run("project-3/run-1")
    os.kill(process_of(run), signal.SIGKILL)
    status = ended(jobs)
    assert status["state"] == "interrupted"
    before = int((run / "samples").read_text())
    assert before > 2
    assert jobs.press(press())["status"] == "going on"
    trains(jobs, "project-3/run-1")
    trainings.end()
    ended(jobs)
    assert f"going on after {before} samples" in (run / "training.log").read_text()
    assert "going on after 0 samples" in (run / "training.log").read_text()  # added to, not begun anew
    reply = jobs.press(press())
    assert (reply["status"], reply["job"]) == ("started", "project-3/run-2")


@pytest.mark.parametrize(
    ("status", "job"),
    [
        ({"state": "failed", "error": "the disk is full", "again": True}, "project-3/run-1"),
        ({"state": "failed", "error": "no annotated photo", "again": False}, "project-3/run-2"),
        ({"state": "stopped"}, "project-3/run-1"),
        ({"state": "promoted"}, "project-3/run-2"),
    ],
)
def test_which_runs_the_next_press_goes_on_with(trainings, status, job):
    jobs = trainings.jobs()
    jobs.press(press())
    trainings.end(**status)
    assert ended(jobs)["state"] == status["state"]
    assert jobs.press(press())["job"] == job


def test_a_run_that_fails_again_and_again_is_given_up(trainings):
    jobs = trainings.jobs()
    trainings.end(state="failed", error="the store cannot be written", again=True)
    begun = []
    for _ in range(6):
        begun.append(jobs.press(press())["job"])
        ended(jobs)
    assert begun == ["project-3/run-1"] * 5 + ["project-3/run-2"]


def test_what_was_trained_is_gone_on_with_whatever_fails_afterwards(trainings):
    """Also where the next try does not come as far as the one before."""
    jobs = trainings.jobs()
    trainings.end(state="failed", error="out of memory", again=True, trained=True)
    jobs.press(press())
    ended(jobs)
    trainings.end(state="failed", error="out of memory", again=False, trained=True)
    assert jobs.press(press())["status"] == "going on"
    ended(jobs)
    assert jobs.press(press())["status"] == "going on"
    ended(jobs)
    trainings.end(state="failed", error="no annotated photo", again=False, trained=False)
    jobs.press(press())
    ended(jobs)
    assert jobs.press(press())["job"] == "project-3/run-2"


def test_what_failed_is_not_begun_again_by_itself(trainings):
    jobs = trainings.jobs(training_every=1)
    trainings.end(state="failed", error="the disk is full", again=True)
    jobs.press(press())
    ended(jobs)
    jobs.annotated({"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": DRAWN}, "project": {"id": 3}})
    assert not jobs.runs.training()
    assert jobs.runs.last().job()["attempt"] == 1


def test_one_that_is_stopped_after_the_start_of_a_backend_stays_so(trainings):
    trainings.jobs().press(press())
    jobs = trainings.jobs()
    trains(jobs)
    jobs.begin()  # waits whether it is about to end
    trainings.end(state="stopped")
    ended(jobs)
    time.sleep(0.5)
    assert jobs.status()["state"] == "stopped"
    assert jobs.runs.last().job()["attempt"] == 1


def test_no_training_starts_whose_weights_would_have_no_place(trainings, caplog):
    jobs = trainings.jobs()
    (trainings.store / "current").write_text("{}")
    (trainings.store / LOCK_FILE).unlink()
    (trainings.store / LOCK_FILE).mkdir()  # nobody can lock that, not even root
    with pytest.raises(TrainingRefusedError, match=r"nothing could be promoted: .*store cannot be written"):
        jobs.press(press())
    assert not list(trainings.root.glob("project-*"))
    trainings.jobs().begin()  # masks need no such place
    assert "Start Training will be refused: " in caplog.text


def test_an_interrupted_project_keeps_no_other_from_its_turn(trainings):
    jobs = trainings.jobs(training_every=1)
    jobs.press(press(project=3))
    trains(jobs)
    os.kill(process_of(trainings.run("project-3/run-1")), signal.SIGKILL)
    ended(jobs)
    for project in (3, 4):
        jobs.annotated(
            {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": DRAWN}, "project": {"id": project}}
        )
    assert trains(jobs)["run"] == "project-4/run-1"


def test_a_backend_that_starts_waits_for_what_a_killed_training_leaves_behind(trainings):
    """Its own processes end a moment after it, and have its lock until then."""
    trainings.jobs().press(press())
    run = trainings.run("project-3/run-1")
    trains(trainings.jobs())
    runs = Runs(trainings.root)
    lock = os.open(trainings.root / ".training.lock", os.O_RDWR)
    os.kill(process_of(run), signal.SIGKILL)
    wait_for(lambda: try_lock(lock))  # as a process that it has left behind
    jobs = trainings.jobs()
    jobs.begin()
    before = (run / "training.log").read_text().count("going on")
    assert runs.training()
    os.close(lock)
    wait_for(lambda: (run / "training.log").read_text().count("going on") == before + 1)


def test_with_other_options_a_run_does_not_go_on(trainings):
    jobs = trainings.jobs()
    jobs.press(press())
    trainings.end(state="stopped")
    ended(jobs)
    other = trainings.jobs(training_options=("--samples", "9"))
    other.begin()
    assert not other.runs.training()
    assert other.press(press())["job"] == "project-3/run-2"


def test_a_backend_that_starts_goes_on_with_an_interrupted_training_but_not_for_ever(trainings):
    trainings.jobs().press(press())
    run = trainings.run("project-3/run-1")
    for turn in range(6):
        jobs = trainings.jobs()
        if turn:
            jobs.begin()
        trains(jobs)
        os.kill(process_of(run), signal.SIGKILL)
        ended(jobs)
    jobs = trainings.jobs()
    jobs.begin()
    assert not jobs.runs.training()
    assert jobs.press(press())["status"] == "going on"  # somebody asks for it


def test_a_training_that_cannot_even_tell_is_told_of_by_its_last_line(trainings):
    jobs = trainings.jobs(training_options=("--lr", "none"))
    jobs.press(press())
    status = wait_for(lambda: (s := jobs.status())["state"] == "failed" and s)
    assert status["error"] == "finetune: error: argument --lr: invalid value"


def test_a_training_that_cannot_be_started_is_refused_in_words(trainings):
    jobs = trainings.jobs()
    jobs._program = (str(trainings.home / "no-python"),)
    with pytest.raises(TrainingRefusedError, match="cannot be started"):
        jobs.press(press())
    assert not jobs.runs.training()


def test_every_so_many_annotations_a_training_starts_across_restarts_and_replicas(trainings):
    def annotated(number, project=3, result=DRAWN, **other):
        one, two = (trainings.jobs(training_every=3) for _ in range(2))  # nothing is remembered but in files
        body = {"action": "ANNOTATION_CREATED", "project": {"id": project}}
        body["annotation"] = {"id": number, "result": result, **other}
        (one if number % 2 else two).annotated(body)
        return one

    for number in (1, 2, 2, 2):  # told several times, counted once
        annotated(number)
    annotated(7, project=4)
    annotated(8, was_cancelled=True)  # skipped by the annotator
    for nothing in ([], None, [{"type": "choices", "value": {"choices": ["cat"]}}], [{"value": {"x": 1, "width": 2}}]):
        annotated(6, result=nothing)  # without a mask
    jobs = annotated(9, project="?")
    assert not jobs.runs.training()
    assert annotated(3).runs.training()
    assert trains(jobs)["run"] == "project-3/run-1"
    for number in (10, 11, 12):
        annotated(number)
    assert [run["run"] for run in jobs.status()["runs"]] == ["project-3/run-1"]  # one at a time
    trainings.end()
    ended(jobs)
    trainings.stop_ending()
    trainings.jobs(training_every=3).start_what_is_due()  # as after the end of the one before
    assert trains(jobs)["run"] == "project-3/run-2"
    assert jobs.runs.count(3) == 0
    assert jobs.runs.count(4) == 1


def test_one_of_all_backends_tells_the_log_and_the_metrics_what_happens(trainings, caplog):
    caplog.set_level("INFO")
    told = Told(), Told()
    one, two = (trainings.jobs(metrics) for metrics in told)
    one.press(press())
    trains(one)
    for jobs in (one, two):
        jobs.begin()
    metrics = wait_for(lambda: next((each for each in told if each.shares), None))
    wait_for(lambda: metrics.shares[-1] and metrics.shares[-1] > 0.2)
    assert 0.2 < metrics.shares[-1] <= 0.8  # within the training, of all
    trainings.end(state="not promoted", reason="+0.10 clicks an object")
    wait_for(lambda: metrics.outcomes)
    assert sorted(len(each.outcomes) for each in told) == [0, 1]
    assert metrics.outcomes == ["not promoted"]
    assert metrics.shares[-1] is None
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("training project-3/run-1: training") == 1
    assert lines.count("training project-3/run-1: not promoted (+0.10 clicks an object)") == 1


def test_an_end_that_nobody_saw_is_told_by_the_next_backend_once(trainings):
    jobs = trainings.jobs()
    jobs.press(press())
    trainings.end(state="promoted", version="v-0002")
    ended(jobs)
    for expected in (["promoted"], []):
        metrics = Told()
        Follower(Runs(trainings.root), metrics, lambda: None).look()
        assert metrics.outcomes == expected


def test_a_killed_training_is_told_as_interrupted(trainings):
    metrics, jobs = Told(), trainings.jobs()
    jobs.press(press())
    trains(jobs)
    os.kill(process_of(trainings.run("project-3/run-1")), signal.SIGKILL)
    ended(jobs)
    follower = Follower(jobs.runs, metrics, lambda: None)
    follower.look()
    assert metrics.outcomes == []  # whoever started it may know more
    follower.look()
    assert metrics.outcomes == ["interrupted"]


def test_old_runs_keep_their_small_files_and_the_oldest_go(trainings):
    runs = Runs(trainings.root)
    for number in range(1, RUNS_KEPT + 4):
        folder = Run(runs.root, 3, number).folder
        (folder / "data").mkdir(parents=True)
        for name in (*SMALL_FILES, "data/photo.png", "config.yaml"):
            (folder / name).write_text("{}")
    runs.prune(3)
    left = runs.of_project(3)
    assert [run.number for run in left] == list(range(4, RUNS_KEPT + 4))
    assert {path.name for path in left[0].folder.iterdir()} == set(SMALL_FILES)
    assert (left[-1].folder / "data" / "photo.png").exists()


def test_weights_that_did_not_come_into_the_store_stay(trainings):
    runs = Runs(trainings.root)
    for number in range(1, RUNS_KEPT + 4):
        folder = Run(runs.root, 3, number).folder
        (folder / "weights").mkdir(parents=True)
        (folder / "weights" / "model.safetensors").write_text("dear")
        (folder / "gate.json").write_text(json.dumps({"verdict": "fewer" if number in (1, 2, 9) else "more"}))
        if number == 2:
            (folder / "promotion.json").write_text("{}")
    runs.prune(3)
    left = runs.of_project(3)
    assert [run.number for run in left] == [1, *range(3, RUNS_KEPT + 4)]
    assert [run.number for run in left if (run.folder / "weights").exists()] == [1, 9, RUNS_KEPT + 3]


@pytest.mark.parametrize(
    "project",
    [None, 0, -1, True, 1.5, "", "x.1", "-3.1", "²", "3/../4", [3], {"id": None}, {"id": "../x"}, {"id": 10**20}],
)
def test_a_project_is_a_whole_number_from_1_on(project):
    with pytest.raises(RequestError, match="project must be"):
        project_of({"project": project})


def test_a_project_comes_as_an_object_or_with_its_time():
    assert project_of({"project": {"id": 12}}) == project_of({"project": "12.1700000000"}) == 12


def test_the_demo_leaves_no_training_behind(trainings, tmp_path):
    from demo.studio import Studio

    studio = Studio(trainings.root.parent, tmp_path / "bin", tmp_path / "python", (0, 0), training="")
    trainings.root = studio.home / "training"
    jobs = trainings.jobs()
    jobs.press(press())
    trains(jobs)
    studio.stop()
    assert ended(jobs)["state"] == "interrupted"  # the stand-in does not tell of Ctrl-C
