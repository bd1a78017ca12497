"""Fine-tuning from an export to a verdict, by its command."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from icmformer import Engine, weights
from icmformer.serving.core import load_engine
from ls_backend.backend import Backend
from ls_backend.settings import BackendSettings
from serverless.settings import FunctionSettings
from training.finetune import NOT_PROMOTED, main
from training.finetuning import gate
from training.finetuning.split import Split


def write_rings(folder, count, seed=0):
    """Photos of dark rings on a noisy ground: an annotator wants the ring without its hole."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        labels = np.zeros((160, 200), np.uint8)
        for label in (1, 2):
            x, y = int(rng.integers(40, 60)) + 90 * (label - 1), int(rng.integers(50, 110))
            cv2.circle(labels, (x, y), 32, label, -1)
            cv2.circle(labels, (x, y), 16, 0, -1)
        photo = rng.normal(150, 25, (160, 200, 3)) - 70 * (labels > 0)[..., None]
        photo = cv2.GaussianBlur(photo.clip(0, 255).astype(np.uint8), (5, 5), 0)
        Image.fromarray(photo).save(folder / "images" / f"p{number}.png")
        Image.fromarray(labels).save(folder / "masks" / f"p{number}.png")
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory, miniature):
    """The command's options for a run of seconds."""
    export = write_rings(tmp_path_factory.mktemp("rings"), 6)
    options = ["--annotations", str(export), "--held-out", "0.34", "--batch", "4", "--objects", "1", "--workers", "0"]
    return [*options, "--threads", "1", "--weights", miniature]


def page_of(out):
    return (out / "report.html").read_text()


def test_a_stopped_run_refuses_other_settings_goes_on_evaluates_and_reports(
    quick, miniature, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    command = [*quick, "--out", str(out), "--samples", "8"]
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: self.trainer.seen >= 4)
        assert main(command) == 130
    told = capsys.readouterr()
    assert "3 photos with 6 objects to train on, 1 with 2 to choose the zoom on, 2 with 4 held out" in told.out
    assert "run the same command to go on" in told.err
    assert not (out / "report.html").exists()

    files = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    for options, text in (
        (["--samples", "16"], "different samples"),
        (["--lr", "1e-5"], "different learning rate"),
        (["--held-out", "0.5"], "different held out"),
        (["--choosing", "0"], "different choosing"),
        (["--group-by", "none"], "different group by"),
    ):
        assert main([*command, *options]) == 2
        assert f"holds another run ({text})" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == files

    status = main(command)
    told = capsys.readouterr().out
    assert status in (0, NOT_PROMOTED)
    assert "going on after 4 samples" in told
    assert torch.load(out / "run" / "checkpoint.pt", weights_only=True)["state"]["seen"] == 8
    before, after = (json.loads((out / name / "results.json").read_text()) for name in ("before", "after"))
    tried = {crop: json.loads((out / f"choosing-{crop}" / "results.json").read_text()) for crop in (200, 48)}
    best = min(tried, key=lambda crop: tried[crop]["noc"]["90"])
    verdict = json.loads((out / "gate.json").read_text())
    assert (verdict["before"], verdict["after"]) == (before["noc"]["90"], after["noc"]["90"])
    assert (verdict["objects"], verdict["photos"], verdict["verdict"]) == (1, 1, "not told apart")
    assert status == NOT_PROMOTED
    assert "NOT promoted" in told
    assert "from 1 object on 1 photo" in told
    made = weights.load(out / "candidate")
    assert made.name == "run"
    assert made.about["fine_tuning"]["samples"] == 8
    assert made.serving.min_crop_size == best == after["min_crop_size"]  # the better on photos that decide nothing
    assert made.about["fine_tuning"]["from"] == "miniature"
    assert made.about["parent"] == weights.load(miniature).about
    Engine(made)
    page = page_of(out)
    assert "Not promoted." in page
    assert "95% interval -19.00 to +19.00" in page  # one object tells nothing
    assert f"{before['noc']['90']:.2f}" in page
    assert f"{after['noc']['90']:.2f}" in page
    assert "<img" in page
    # again: nothing is trained or played anew, the verdict is the same
    assert main(command) == status
    assert "going on after 8 samples" in capsys.readouterr().out


def test_one_part_chooses_the_zoom_and_another_one_decides(quick, tmp_path, capsys, monkeypatch):
    """Evaluations are made up, in files as real ones leave them; all else is the command's."""
    out = tmp_path / "run"

    def measured(path, name, settings, part, folder, tell):
        served = weights.load(path).serving.min_crop_size
        names = [f"{p.stem}_{label}" for p in (settings.data / part / "masks").iterdir() for label in (1, 2)]
        own = clicks[served] if part == "choosing" else 10 - (gain if name == "after" else 0)
        results = {name: own + (n % 3 == 0) for n, name in enumerate(sorted(names))}
        folder.mkdir(exist_ok=True)
        lines = [{"run": {}}]
        lines += [{"name": n, "clicks": [], "ious": [0.5] * (k - 1) + [0.95] * (21 - k)} for n, k in results.items()]
        (folder / "objects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        noc = sum(results.values()) / len(results)
        return {"noc": dict.fromkeys(("80", "85", "90"), noc), "never": {"90": 0}, "miou": [0.5] * 20, "miou_at_1": 0.5}

    monkeypatch.setattr(gate, "measure", measured)
    export = write_rings(tmp_path / "rings", 24)
    command = [*quick, "--annotations", str(export), "--held-out", "0.5", "--out", str(out), "--samples", "4"]
    for clicks, crop, gain in (
        ({200: 7, 48: 8}, 200, 0),
        ({200: 7, 48: 2}, 48, -3),  # what is gained on the photos that choose counts for nothing
        ({200: 8, 48: 7}, 48, 3),
        ({200: 7, 48: 8}, 200, 3),
    ):
        assert main(command) == (0 if gain > 0 else NOT_PROMOTED)
        assert (out / "weights").exists() == (gain > 0)
        assert weights.load(out / ("weights" if gain > 0 else "candidate")).serving.min_crop_size == crop
        told = capsys.readouterr().out
        assert f"{10 + 1 / 3 - gain:.2f} after" in told
        assert f"({-gain:+.2f} to {-gain:+.2f}, ".strip("(") in told
        assert "from 24 objects on 12 photos" in told
        assert ("training has not helped" in told) != (gain > 0)
        assert ("Promoted." in page_of(out)) == (gain > 0)
        assert f"<td>{clicks[crop] + 1 / 2:.2f}</td>" in page_of(out)


def test_mended_annotations_go_on_or_begin_anew(quick, tmp_path, capsys, monkeypatch):
    export, out = write_rings(tmp_path / "rings", 6), tmp_path / "run"
    command = [*quick, "--annotations", str(export), "--out", str(out), "--samples", "12"]
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: self.trainer.seen >= 4)
        assert main(command) == 130
    capsys.readouterr()
    parts = json.loads((out / "data" / "parts.json").read_text())

    (export / "images" / "notes.txt").write_text("what is no photo changes nothing")
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: self.trainer.seen >= 8)
        assert main(command) == 130
    told = capsys.readouterr().out
    assert "the same photos and masks: going on" in told
    assert "going on after 4 samples" in told
    again = json.loads((out / "data" / "parts.json").read_text())
    assert again["photos"] == parts["photos"]
    assert again["export"] != parts["export"]

    trained = next(p for p in parts["photos"] if p["part"] == "train")["identity"]
    mask = export / "masks" / trained
    unspoiled = mask.read_bytes()
    labels = np.asarray(Image.open(mask)).copy()
    labels[labels == 2] = 0
    Image.fromarray(labels).save(mask)
    assert main([*command, "--samples", "16"]) == 2  # another option is another run, whatever was mended
    assert "different samples" in capsys.readouterr().err
    assert main(command) == NOT_PROMOTED
    told = capsys.readouterr().out
    assert "other photos or masks: training and evaluations begin anew" in told
    assert "going on after" not in told
    assert "3 photos with 5 objects to train on" in told
    assert (out / "report.html").exists()
    assert (out / "earlier-1" / "run" / "checkpoint.pt").exists()
    split = Split.from_mapping(json.loads((out / "data" / "parts.json").read_text())["photos"])
    assert {p.identity: p.part for p in split.photos} == {p["identity"]: p["part"] for p in parts["photos"]}
    assert main(command) == NOT_PROMOTED  # nothing is read or trained anew
    told = capsys.readouterr().out
    assert "going on after 12 samples" in told
    assert "reading" not in told

    mask.write_bytes(unspoiled)  # the run before can be put back
    out.rename(tmp_path / "spoiled")
    (tmp_path / "spoiled" / "earlier-1").rename(out)
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: True)
        assert main(command) == 130
    told = capsys.readouterr().out
    assert "the same photos and masks: going on" in told
    assert "going on after 8 samples" in told

    shutil.rmtree(export)
    write_rings(export, 6, seed=7)
    assert main(command) == 2
    assert "holds a run on other photos" in capsys.readouterr().err
    assert json.loads((out / "data" / "parts.json").read_text())["photos"] == parts["photos"]


def test_an_export_of_one_video_is_refused_until_told_otherwise(quick, tmp_path, capsys):
    export, out = write_rings(tmp_path / "rings", 4), tmp_path / "run"
    for path in [*export.glob("*/*.png")]:
        path.rename(path.with_name(f"frame_{path.stem[1:]}.png"))
    command = [*quick, "--annotations", str(export), "--out", str(out), "--samples", "4"]
    assert main(command) == 2
    assert "all 4 photos belong together (frames of one video)" in capsys.readouterr().err
    assert main([*command, "--group-by", "none"]) == NOT_PROMOTED
    told = capsys.readouterr().out
    assert "3 photos with 6 objects to train on, 1 with 2 held out" in told
    assert "too few groups of photos to choose the zoom on" in told
    assert weights.load(out / "candidate").serving.min_crop_size == 200  # the weights' own


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--held-out", "1"], "--held-out must lie between"),
        (["--held-out", "0.6", "--choosing", "0.4"], "leave nothing to train on"),
        (["--choosing", "-1"], "--choosing must lie in"),
        (["--group-by", "("], "--group-by takes auto, none, folder or a regular expression"),
        (["--samples", "0"], "must be positive"),
        (["--weights", "none-such"], "none-such"),
        (["--annotations", "none-such"], "there is no none-such"),
    ],
)
def test_mistakes_are_told(quick, tmp_path, capsys, options, text):
    assert main([*quick, "--out", str(tmp_path / "run"), *options]) == 2
    assert text in capsys.readouterr().err


def test_what_outlines_nothing_is_counted_and_left_out(quick, tmp_path, capsys):
    folder = write_rings(tmp_path / "rings", 4)
    shape = '<polygon points="30,30;70,30;70,70;30,70"/><box xtl="1" ytl="1" xbr="50" ybr="50"/>'
    names = sorted(p.name for p in (folder / "images").iterdir())
    shapes = [shape[shape.index("<box") :], shape, shape, shape]  # one photo has nothing but a box
    images = "".join(
        f'<image name="{name}" width="200" height="160">{inner}</image>'
        for name, inner in zip(names, shapes, strict=True)
    )
    (folder / "images" / "export.xml").write_text(f"<annotations>{images}</annotations>")
    options = [*quick, "--annotations", str(folder / "images" / "export.xml"), "--out", str(tmp_path / "run")]
    assert main([*options, "--samples", "8"]) in (0, NOT_PROMOTED)
    told = capsys.readouterr().out
    assert "2 photos with 2 objects to train on, 1 with 1 held out" in told
    assert "skipped: 4 x box" in told
    assert "4 x box" in page_of(tmp_path / "run")


JUDGED = ["--held-out", "0.4", "--choosing", "0", "--objects", "12", "--threads", "1", "--workers", "0"]


def with_rolled_masks(command, out, monkeypatch):
    """Prepares the run's data, and makes what is trained on wrong; what it is judged by stays right."""
    with monkeypatch.context() as patch:
        patch.setattr("training.loop.run.Run._over", lambda self, *_: True)
        assert main(command) == 130
    for path in (out / "data" / "train" / "masks").iterdir():
        Image.fromarray(np.roll(np.asarray(Image.open(path)), (80, 100), (0, 1))).save(path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shuffled", [False, True])
def test_good_annotations_are_promoted_and_shuffled_ones_are_not(shuffled, tmp_path, monkeypatch):
    out = tmp_path / "run"
    command = ["--annotations", str(write_rings(tmp_path / "rings", 30)), "--out", str(out), *JUDGED]
    command += ["--samples", "160", "--lr", "3e-4"]
    if shuffled:
        with_rolled_masks(command, out, monkeypatch)
    assert main(command) == (NOT_PROMOTED if shuffled else 0)
    assert (out / "weights").exists() != shuffled
    assert (json.loads((out / "gate.json").read_text())["high"] < 0) != shuffled


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kind", "lr"), [("rolled masks", "3e-3"), ("next to nothing learned", "1e-5")])
def test_trainings_that_do_not_help_are_promoted_by_chance_at_most(kind, lr, tmp_path, monkeypatch):
    """With ten photos the gate takes weights that are no better for better in up to 6 of 100 cases.

    More than 3 of 20 are so in 3 of 100 such tests. Weights that are worse are never taken for better.
    """
    out = tmp_path / "run"
    command = ["--annotations", str(write_rings(tmp_path / "rings", 25)), "--out", str(out), *JUDGED]
    command += ["--objects", str(gate.LEAST_GROUPS), "--samples", "4", "--batch", "2", "--lr", lr]  # one object a photo
    monkeypatch.setattr("training.finetuning.runner.write_report", lambda *_: None)  # other tests look at it
    if kind == "rolled masks":
        with_rolled_masks(command, out, monkeypatch)
    found, promoted = [], 0
    for seed in range(20):  # all with one split, whose evaluation before the training they share
        for name in ("settings.json", "run", "after", "candidate"):
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(out / "weights", ignore_errors=True)
        promoted += main([*command, "--seed", str(seed)]) == 0
        found.append(json.loads((out / "gate.json").read_text()))
    assert promoted == 0 if kind == "rolled masks" else promoted <= 3
    assert all(result["groups"] == gate.LEAST_GROUPS for result in found)
    assert len({result["after"] for result in found}) > 1  # the seeds are not one and the same case


def test_promoted_weights_are_served_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    starter = weights.load("starter")
    served = replace(starter.serving, min_crop_size=48)
    folder = tmp_path / "run" / "weights"
    made = weights.save(folder, starter.config, starter.state_dict, "nuclei", stored="fp16", serving=served)
    assert gate.install(made) == "nuclei"
    for source in (str(made), "nuclei"):
        facts = {"weights": source, "cache_dir": tmp_path / "cache"}
        for engine in (
            load_engine(FunctionSettings(**facts)),
            Backend.from_settings(BackendSettings(**facts)).core.engine,
        ):
            assert engine.weights.name == "nuclei"
            assert engine.predictor.serving.min_crop_size == 48
    (made / "model.safetensors").unlink()  # the installed copy is one of its own
    assert weights.load("nuclei").serving.min_crop_size == 48
    again = weights.save(tmp_path / "again", starter.config, starter.state_dict, "nuclei", stored="fp16")
    assert gate.install(again) == "nuclei"
    assert weights.load("nuclei").serving.min_crop_size == 200
    assert [p.name for p in (tmp_path / "cache" / "weights").iterdir()] == ["nuclei"]
