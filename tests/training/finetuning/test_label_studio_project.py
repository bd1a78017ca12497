"""A project of Label Studio, read over its API: the same data as by export, photos that fail, the command."""

import json
import os

import numpy as np
import pytest

from icmformer.errors import ConfigError
from icmformer.fetching.label_studio_tasks import LabelStudioGoneError
from icmformer.serving.errors import FetchError
from tests.doctor import forget_environment
from tests.ls_backend.conftest import LEGACY
from tests.training.finetuning.label_studio_exports import blob, brush, drawn
from tests.training.finetuning.label_studio_server import numbers
from training.finetune import main
from training.finetuning.prepared import prepared
from training.finetuning.readers.annotations import AnnotationError
from training.finetuning.readers.reading_report import ReadingReport
from training.finetuning.settings import FinetuneSettings


def photos_of(project, folder, report=None):
    project.snapshot(folder)
    return list(project.photos(folder, report or ReadingReport()))


def test_photos_masks_and_groups_are_those_of_an_export(studio, project_of, tmp_path):
    for _ in range(5):
        studio.add()
    studio.tasks[2]["annotations"].append(
        {**studio.tasks[2]["annotations"][0], "id": 99, "ground_truth": True, "result": [brush(blob((40, 60)))]}
    )
    studio.add(name="sub folder/deep photo.png")
    export, folder = tmp_path / "export.json", tmp_path / "photos"
    export.write_text(json.dumps(studio.tasks))
    folder.mkdir()
    for task in studio.tasks:
        address = task["data"]["image"]
        place = folder / address.removeprefix("/data/upload/1/")
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(studio.files[address])
    by_export = prepared(FinetuneSettings(export, tmp_path / "run-1", images=folder)).split
    by_api = prepared(FinetuneSettings(None, tmp_path / "run-2", project=project_of())).split
    assert len(by_api.photos) == 6
    assert by_api.as_mapping() == by_export.as_mapping()
    for kind in ("images", "masks"):
        files = [sorted((tmp_path / run / "data").glob(f"*/{kind}/*.png")) for run in ("run-1", "run-2")]
        assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_only_accepted_annotations_count_where_that_is_asked(studio, project_of, tmp_path):
    for _ in range(4):
        studio.add()
    studio.tasks[0]["annotations"][0]["ground_truth"] = True
    studio.tasks[1]["annotations"][0]["reviews"] = [{"accepted": False}, {"accepted": True}]
    studio.tasks[2]["annotations"][0]["reviews"] = [{"accepted": True}, {"accepted": False}]
    early, late = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"  # the latest counts, wherever it stands
    reviews = [{"accepted": False, "created_at": late}, {"accepted": True, "created_at": early}]
    studio.tasks[3]["annotations"][0] |= {"reviews": reviews, "ground_truth": True}
    report = ReadingReport()
    found = photos_of(project_of(accepted=True), tmp_path / "s", report)
    assert [photo.photo.group for photo in found] == ["task 1", "task 2"]
    assert report.counts("skipped")["annotation that nobody accepted"] == 2
    (mask,) = drawn(found[0], (40, 60))
    np.testing.assert_array_equal(mask, blob((40, 60), 1))


def test_files_are_fetched_once_and_one_that_is_gone_costs_itself(studio, project_of, tmp_path):
    for _ in range(4):
        studio.add()
    del studio.files[studio.tasks[1]["data"]["image"]]
    report = ReadingReport()
    assert len(photos_of(project_of(), tmp_path / "s", report)) == 3
    assert report.counts("skipped") == {"a photo that cannot be fetched": 1}
    before = len(studio.asked)
    assert len(photos_of(project_of(), tmp_path / "s")) == 3
    assert [path for path, _ in studio.asked[before:] if path.startswith("/data")] == [
        studio.tasks[1]["data"]["image"]
    ] * 2


def test_foreign_addresses_are_refused_with_the_setting_that_admits_them(studio, project_of, tmp_path):
    studio.add()
    studio.add()["data"]["image"] = "http://169.254.169.254/latest/meta-data.png"
    report = ReadingReport()
    assert len(photos_of(project_of(), tmp_path / "s", report)) == 1
    (why,) = [why for _, kind, _, why in report.rows if kind == "a photo that cannot be fetched"]
    assert "ICMFORMER_ALLOWED_HOSTS" in why


@pytest.mark.parametrize("how", ["away", "another token"])
def test_a_label_studio_that_goes_in_the_middle_costs_no_photo(studio, project_of, tmp_path, how):
    for _ in range(5):
        studio.add()
    project, report = project_of(), ReadingReport()
    project.snapshot(tmp_path / "s")
    found = project.photos(tmp_path / "s", report)
    next(found)
    kept, studio.files = studio.files, {}
    studio.gone, studio.token_needed = how == "away", None
    if how == "another token":
        studio.failures = [401]
    with pytest.raises(LabelStudioGoneError):
        next(found)
    assert report.rows == []
    studio.files, studio.gone = kept, False
    assert len(list(project.photos(tmp_path / "s", report))) == 5
    assert report.rows == []


def test_a_photo_that_fails_while_label_studio_starts_again_comes_later(studio, project_of, tmp_path):
    for _ in range(3):
        studio.add()
    project, report = project_of(), ReadingReport()
    project.snapshot(tmp_path / "s")
    kept, studio.files = studio.files, {}
    studio.failures = [502]

    def up_again():
        studio.files = kept

    studio.after_whoami = up_again
    assert len(list(project.photos(tmp_path / "s", report))) == 3
    assert report.rows == []


def test_a_run_stops_where_no_photo_comes_and_goes_on_once_they_do(studio, project_of, tmp_path):
    for _ in range(12):
        studio.add()
    kept = dict(studio.files)
    studio.files.clear()
    settings = FinetuneSettings(None, tmp_path / "run", project=project_of())
    with pytest.raises(FetchError, match="none of the first 10 photos can be fetched"):
        prepared(settings)
    studio.files |= kept
    calls = len(studio.calls)
    assert len(prepared(settings).split.photos) == 12
    assert "/api/tasks/" not in studio.calls[calls:]


def test_a_project_is_read_again_only_where_that_is_asked(studio, project_of, tmp_path, capsys):
    for _ in range(5):
        studio.add()
    settings = FinetuneSettings(None, tmp_path / "run", project=project_of())
    assert len(prepared(settings).split.photos) == 5
    studio.add()
    assert len(prepared(settings).split.photos) == 5
    again = FinetuneSettings(None, tmp_path / "run", project=project_of(), refresh=True)
    assert len(prepared(again).split.photos) == 6
    assert "begin anew" in capsys.readouterr().out


def run_of(project, folder, refresh=False):
    settings = FinetuneSettings(None, folder, project=project, refresh=refresh)
    return settings, prepared(settings).split


def test_a_refresh_that_is_stopped_leaves_the_snapshot_and_goes_on(studio, project_of, tmp_path):
    for _ in range(60):
        studio.add()
    _, first = run_of(project_of(), tmp_path / "run")
    studio.add()
    studio.after_page = lambda: studio.failures.extend([500, 500, 500])
    with pytest.raises(FetchError):
        run_of(project_of(), tmp_path / "run", refresh=True)
    studio.after_page = lambda: None
    studio.calls.clear()
    assert run_of(project_of(), tmp_path / "run")[1].as_mapping() == first.as_mapping()
    assert studio.calls == []
    assert len(run_of(project_of(), tmp_path / "run", refresh=True)[1].photos) == 61
    assert studio.calls.count("/api/tasks/") == 2
    assert sorted(path.name for path in (tmp_path / "run").glob("snapshot*")) == ["snapshot"]
    assert numbers(tmp_path / "run" / "earlier-1" / "snapshot") == list(range(1, 61))
    studio.calls.clear()  # the run before can be put back, with what was drawn then
    assert run_of(project_of(), tmp_path / "run" / "earlier-1")[1].as_mapping() == first.as_mapping()
    assert studio.calls == []


def test_a_refresh_that_was_stopped_long_ago_begins_anew(studio, project_of, tmp_path):
    for _ in range(60):
        studio.add()
    run_of(project_of(), tmp_path / "run")
    studio.after_page = lambda: studio.failures.extend([500, 500, 500])
    with pytest.raises(FetchError):
        run_of(project_of(), tmp_path / "run", refresh=True)
    for path in (tmp_path / "run" / "snapshot.new").iterdir():
        os.utime(path, (0, 0))
    studio.after_page = lambda: None
    del studio.tasks[0]
    assert len(run_of(project_of(), tmp_path / "run", refresh=True)[1].photos) == 59


def test_a_refresh_that_is_killed_between_its_two_moves_takes_what_it_has_read(studio, project_of, tmp_path):
    for _ in range(4):
        studio.add()
    settings, _ = run_of(project_of(), tmp_path / "run")
    studio.add()
    snapshots = settings.snapshots
    snapshots.take(project_of(), refresh=True)
    snapshots.current.rename(tmp_path / "run" / "snapshot.new")  # as it was after the first of them
    studio.calls.clear()
    assert len(run_of(project_of(), tmp_path / "run", refresh=True)[1].photos) == 5
    assert "/api/tasks/" not in studio.calls


def test_a_damaged_snapshot_is_said_to_be(studio, project_of, tmp_path):
    for _ in range(4):
        studio.add()
    settings, _ = run_of(project_of(), tmp_path / "run")
    (settings.snapshots.current / "project.json").write_text('{"iden')
    with pytest.raises(AnnotationError, match=r"project\.json is damaged .*: delete .*snapshot, and the same command"):
        project_of().snapshot(settings.snapshots.current)


def test_a_refresh_that_cannot_be_used_leaves_the_run_as_it_was(studio, project_of, tmp_path):
    for _ in range(4):
        studio.add()
    settings, first = run_of(project_of(), tmp_path / "run")
    studio.tasks.clear()
    with pytest.raises(ConfigError, match="nobody has annotated anything"):
        run_of(project_of(), tmp_path / "run", refresh=True)
    assert run_of(project_of(), tmp_path / "run")[1].as_mapping() == first.as_mapping()
    assert numbers(settings.snapshots.current) == [1, 2, 3, 4]


def test_the_command_reads_a_project_is_stopped_and_goes_on(studio, miniature, tmp_path, capsys, monkeypatch):
    for _ in range(8):
        studio.add()
    forget_environment(monkeypatch)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "run"
    options = ["--held-out", "0.3", "--choosing", "0", "--batch", "4", "--samples", "8", "--objects", "1"]
    options += ["--workers", "0", "--threads", "1", "--weights", miniature, "--out", str(out)]
    command = ["--label-studio", studio.url, "--project", "4", *options]

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("icmformer.fetching.label_studio_tasks.time.sleep", interrupted)
        studio.failures = [502]
        assert main(command) == 130
    assert capsys.readouterr().err.endswith(f"stopped; run the same command to go on: {out}\n")
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: self.trainer.seen >= 4)
        assert main(command) == 130
    assert f"reading project 4 of {studio.url}" in capsys.readouterr().out
    identity = f"label studio {studio.url} project 4"
    assert json.loads((out / "settings.json").read_text())["project"] == identity
    assert main([*command, "--accepted"]) == 2
    assert "holds another run (different project)" in capsys.readouterr().err
    assert main(["--annotations", str(out / "snapshot"), *options]) == 2
    assert "holds another run (different project)" in capsys.readouterr().err
    studio.shutdown()  # what the run has read is enough
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: True)
        assert main(command) == 130
    told = capsys.readouterr()
    assert "going on after 4 samples" in told.out
    assert LEGACY not in told.out + told.err
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if LEGACY.encode() in path.read_bytes()]


def test_predictions_are_taken_only_where_that_is_asked(studio, project_of, tmp_path):
    studio.add()
    said = studio.tasks[0]["annotations"][0]["result"]
    studio.add([])["predictions"] = [{"id": 5, "result": said, "model_version": "m"}]
    assert [photo.photo.group for photo in photos_of(project_of(), tmp_path / "s")] == ["task 1"]
    assert "predictions" not in json.loads((tmp_path / "s" / "tasks-000001.json").read_text())[0]
    found = photos_of(project_of(predictions=True), tmp_path / "p")
    assert [photo.photo.group for photo in found] == ["task 1", "task 2"]
    assert [annotation.source for annotation in found[1].annotations] == ["prediction"]


def test_a_project_without_annotations_says_so(studio, project_of, tmp_path):
    studio.add([])
    with pytest.raises(AnnotationError, match="nobody has annotated anything"):
        photos_of(project_of(), tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "give one of --annotations, --label-studio and --cvat"),
        (["--annotations", "x", "--label-studio", "http://x"], "got --annotations and --label-studio"),
        (["--annotations", "x", "--project", "3"], "--project go with"),
        (["--annotations", "x", "--refresh"], "--refresh goes with"),
        (["--label-studio", "http://x"], "needs --project N"),
        (["--label-studio", "http://x", "--task", "3"], "--task and --job go with --cvat"),
        (["--label-studio", "http://x", "--project", "0"], "from 1 on"),
        (["--label-studio", "x", "--project", "1"], "--label-studio takes an address like"),
        (["--label-studio", "", "--project", "1"], "--label-studio takes an address like"),
        (["--label-studio", "http://x", "--project", "1", "--accepted", "--predictions"], "contradict each other"),
        (["--label-studio", "http://x", "--project", "1"], "LABEL_STUDIO_API_KEY"),
        (["--cvat", "http://x"], "one of --project N, --task N and --job N"),
        (["--cvat", "http://x", "--task", "1", "--job", "2"], "one of --project N"),
        (["--cvat", "http://x", "--task", "1"], "CVAT_ACCESS_TOKEN"),
        (["--cvat", "http://x", "--task", "1", "--predictions"], "CVAT has none"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, text, tmp_path, capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("LABEL_STUDIO", "CVAT"))]:
        monkeypatch.delenv(name)
    assert main([*options, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert text in told
    assert told.startswith("error: ")


def test_an_export_needs_one_source(tmp_path, project_of):
    with pytest.raises(ConfigError):
        FinetuneSettings(tmp_path, tmp_path / "run", project=project_of())
    with pytest.raises(ConfigError, match="--images"):
        FinetuneSettings(None, tmp_path / "run", project=project_of(), images=tmp_path)
