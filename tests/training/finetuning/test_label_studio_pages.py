"""The tasks of a Label Studio project by pages: what changes meanwhile, what fails, what is begun anew."""

import json

import pytest

from icmformer.fetching import label_studio_tasks
from icmformer.fetching.label_studio_tasks import LabelStudioGoneError
from icmformer.serving.errors import FetchError
from tests.ls_backend.conftest import LEGACY, PERSONAL
from tests.training.finetuning.label_studio_server import numbers


@pytest.mark.parametrize("token", [LEGACY, PERSONAL])
def test_all_annotated_tasks_come_by_pages(studio, project_of, tmp_path, token):
    for n in range(120):
        studio.add([] if n % 10 == 3 else None)
    project_of(token).snapshot(tmp_path / "s")
    assert numbers(tmp_path / "s") == [task["id"] for task in studio.tasks if task["annotations"]]
    assert studio.calls.count("/api/tasks/") == 4  # the last one is empty


def test_what_annotators_do_meanwhile_neither_hides_nor_repeats_a_task(studio, project_of, tmp_path):
    for _ in range(110):
        studio.add()
    there = [task["id"] for task in studio.tasks]

    def meanwhile():
        del studio.tasks[:7]  # of those that were read: by places, the next page would leave seven out
        studio.add()

    studio.after_page = meanwhile
    project_of().snapshot(tmp_path / "s")
    found = numbers(tmp_path / "s")
    assert sorted(set(found)) == found
    assert set(there) <= set(found)


def test_a_stopped_reading_goes_on_with_the_next_page(studio, project_of, tmp_path):
    for _ in range(120):
        studio.add()
    studio.after_page = lambda: studio.failures.extend([500, 502, 503])
    with pytest.raises(FetchError, match="answered 503"):
        project_of().snapshot(tmp_path / "s")
    assert len(numbers(tmp_path / "s")) == 50
    studio.after_page = lambda: None
    studio.calls.clear()
    project_of().snapshot(tmp_path / "s")
    assert numbers(tmp_path / "s") == list(range(1, 121))
    assert studio.calls == ["/api/tasks/"] * 3
    studio.calls.clear()
    project_of().snapshot(tmp_path / "s")  # whole: it is as it was
    assert studio.calls == []


def test_a_label_studio_that_starts_again_is_waited_for(studio, project_of, tmp_path, capsys):
    studio.add()
    studio.failures = [502, 503]
    project_of().snapshot(tmp_path / "s")
    assert numbers(tmp_path / "s") == [1]
    assert "trying again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"number": 5}, "there is no project 5 of .*, or the user of LABEL_STUDIO_API_KEY may not see it"),
        ({"token": "wrong"}, "answered 401"),
        ({"token": "not.the.one"}, "did not take the personal access token"),
    ],
)
def test_what_is_refused_is_told_at_once(project_of, tmp_path, options, text, studio, capsys):
    with pytest.raises(LabelStudioGoneError, match=text):
        project_of(**options).snapshot(tmp_path / "s")
    assert len(studio.calls) <= 1
    assert "trying again" not in capsys.readouterr().err


def test_a_task_that_is_annotated_between_the_counting_and_the_page_pushes_none_out(studio, project_of, tmp_path):
    """Django's page ends at the number that was counted before."""
    for n in range(12):
        studio.add([] if n == 2 else None)
    there = [task["id"] for task in studio.tasks if task["annotations"]]

    def counted_before():
        studio.most = 1000

    studio.most, studio.after_page = 11, counted_before
    late = studio.tasks[2]
    late["annotations"] = [{**studio.tasks[0]["annotations"][0], "id": 999}]
    project_of().snapshot(tmp_path / "s")
    assert set(there) <= set(numbers(tmp_path / "s"))


def test_pages_that_are_too_large_become_smaller(studio, project_of, tmp_path, monkeypatch):
    for _ in range(60):
        studio.add()
    monkeypatch.setattr("icmformer.fetching.label_studio._API_BYTES", largest := 7 * len(json.dumps(studio.tasks[0])))
    project_of().snapshot(tmp_path / "s")
    assert numbers(tmp_path / "s") == list(range(1, 61))
    assert max(path.stat().st_size for path in (tmp_path / "s").glob("tasks-*.json")) < largest


def test_a_label_studio_that_lists_otherwise_is_refused(studio, project_of, tmp_path, monkeypatch):
    for _ in range(3):
        studio.add()
    real = label_studio_tasks._filter
    monkeypatch.setattr(label_studio_tasks, "_filter", lambda field, above: {**real(field, above), "value": 0})
    with pytest.raises(FetchError, match="does not list tasks by their numbers"):
        project_of().snapshot(tmp_path / "s")


def test_what_nobody_changed_makes_the_same_snapshot(studio, project_of, tmp_path):
    """Label Studio tells times as "3 minutes ago", and counts."""
    studio.add()["annotations"][0]["created_ago"] = "3 minutes"
    project_of().snapshot(tmp_path / "s")
    studio.tasks[0]["annotations"][0]["created_ago"] = "1 hour"
    studio.tasks[0]["avg_lead_time"] = 7
    project_of().snapshot(tmp_path / "again")
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_snapshot_of_something_else_is_begun_anew(studio, project_of, tmp_path):
    for _ in range(60):
        studio.add()
    project_of().snapshot(tmp_path / "s")
    del studio.tasks[5:]
    project_of(accepted=True).snapshot(tmp_path / "s")
    assert numbers(tmp_path / "s") == [1, 2, 3, 4, 5]
