"""Fine-tuning from an export to a verdict, by its command."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from icmformer import Engine, weights
from icmformer.errors import ConfigError
from icmformer.serving.core import load_engine
from ls_backend.backend import Backend
from ls_backend.settings import BackendSettings
from serverless.settings import FunctionSettings
from training.data.folders import Folder
from training.finetune import NOT_PROMOTED, main
from training.finetuning import gate
from training.finetuning.readers.annotated_image import AnnotatedImage
from training.finetuning.split import prepare


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
        patch.setattr("training.loop.run.Run._over", lambda self: self.trainer.seen >= 4)
        assert main(command) == 130
    told = capsys.readouterr()
    assert "4 photos with 8 objects to train on, 2 with 4 held out" in told.out
    assert "run the same command to go on" in told.err
    assert not (out / "report.html").exists()

    files = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    for options, text in (
        (["--samples", "16"], "different samples"),
        (["--lr", "1e-5"], "different learning rate"),
        (["--held-out", "0.5"], "different held out"),
    ):
        assert main([*command, *options]) == 2
        assert f"holds another run ({text})" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == files

    status = main(command)
    told = capsys.readouterr().out
    assert status in (0, NOT_PROMOTED)
    assert "going on after 4 samples" in told
    assert torch.load(out / "run" / "checkpoint.pt", weights_only=True)["state"]["seen"] == 8
    before = json.loads((out / "before" / "results.json").read_text())
    tried = {crop: json.loads((out / f"after-{crop}" / "results.json").read_text()) for crop in (200, 48)}
    best = min(tried, key=lambda crop: tried[crop]["noc"]["90"])
    after = tried[best]
    promoted = after["noc"]["90"] < before["noc"]["90"]
    assert promoted == (status == 0) == (out / "weights").exists()
    assert ("NOT promoted" in told) != promoted
    made = weights.load(out / ("weights" if promoted else "candidate"))
    assert made.name == "run"
    assert made.about["fine_tuning"]["samples"] == 8
    assert made.serving.min_crop_size == best == after["min_crop_size"]  # the better of the two, measured
    assert made.about["fine_tuning"]["from"] == "miniature"
    assert made.about["parent"] == weights.load(miniature).about
    assert "may be chance" in page_of(out)  # one object tells little
    Engine(made)
    page = (out / "report.html").read_text()
    assert ("Promoted." in page) == promoted
    assert f"{before['noc']['90']:.2f}" in page
    assert f"{after['noc']['90']:.2f}" in page
    assert page.count("<img") >= 2
    # again: nothing is trained or played anew, the verdict is the same
    assert main(command) == status
    assert "going on after 8 samples" in capsys.readouterr().out

    measure = gate.measure
    for clicks, crop, promoted in (
        ({"before": 10, 200: 10, 48: 10.5}, 200, False),
        ({"before": 10, 200: 9, 48: 7}, 48, True),
        ({"before": 10, 200: 8.25, 48: 9}, 200, True),
    ):
        figures = {"before": clicks["before"]} | {f"after-{size}": clicks[size] for size in (200, 48)}

        def measured(path, name, settings, folder, figures=figures):
            results = measure(path, name, settings, folder)
            return {**results, "noc": {**results["noc"], "90": figures[folder.name]}}

        monkeypatch.setattr(gate, "measure", measured)
        assert main(command) == (0 if promoted else NOT_PROMOTED)
        assert weights.load(out / ("weights" if promoted else "candidate")).serving.min_crop_size == crop
        assert f"{clicks[crop]:.2f} after" in capsys.readouterr().out
        assert f"{clicks[crop]:.2f}" in page_of(out)
        assert ("Promoted." in page_of(out)) == promoted


def test_the_parts_share_no_photo_and_are_the_same_every_time(tmp_path):
    folder = Folder(write_rings(tmp_path / "rings", 9))
    photos = [AnnotatedImage(r.key, folder.image_file(i), folder.load(i)[1]) for i, r in enumerate(folder.records)]
    first, again = prepare(photos, tmp_path / "a", 0.3), prepare(photos[::-1], tmp_path / "b", 0.3)
    assert first == again
    assert (first.train_images, first.held_images) == (6, 3)
    assert first.long_side == 200
    parts = {
        out: {part: {p.name for p in (tmp_path / out / part / "images").iterdir()} for part in ("train", "held_out")}
        for out in "ab"
    }
    assert parts["a"] == parts["b"]
    assert not parts["a"]["train"] & parts["a"]["held_out"]
    one = next((tmp_path / "a" / "train" / "masks").iterdir())
    np.testing.assert_array_equal(np.asarray(Image.open(one)), next(p.labels for p in photos if p.name == one.stem))


def test_photos_that_cannot_be_told_apart_or_do_not_fit_are_refused(tmp_path):
    folder = Folder(write_rings(tmp_path / "rings", 2))
    photos = [AnnotatedImage("same", folder.image_file(i), folder.load(i)[1]) for i in range(2)]
    with pytest.raises(ConfigError, match="several photos are called same"):
        prepare(photos, tmp_path / "a", 0.5)
    with pytest.raises(ConfigError, match="too few"):
        prepare(photos[:1], tmp_path / "a", 0.5)
    wrong = [AnnotatedImage(str(i), p.file, p.labels[:-1]) for i, p in enumerate(photos)]
    with pytest.raises(ConfigError, match="has 200 x 160 pixels, its annotation 200 x 159"):
        prepare(wrong, tmp_path / "b", 0.5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--held-out", "1"], "--held-out must lie between"),
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
    assert "skipped, without an outline: 4 x box" in told
    assert "4 x box" in page_of(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shuffled", [False, True])
def test_good_annotations_are_promoted_and_shuffled_ones_are_not(shuffled, tmp_path, capsys, monkeypatch):
    out, common = tmp_path / "run", ["--held-out", "0.4", "--objects", "12", "--threads", "1", "--lr", "3e-4"]
    command = ["--annotations", str(write_rings(tmp_path / "rings", 20)), "--out", str(out), *common]
    if shuffled:  # what is trained on is wrong, what it is judged by is right
        with monkeypatch.context() as patch:
            patch.setattr("training.loop.run.Run._over", lambda self: True)
            assert main([*command, "--samples", "160"]) == 130
        for path in (out / "data" / "train" / "masks").iterdir():
            labels = np.asarray(Image.open(path))
            Image.fromarray(np.roll(labels, (80, 100), (0, 1))).save(path)
    assert main([*command, "--samples", "160"]) == (NOT_PROMOTED if shuffled else 0)
    print(capsys.readouterr().out[-300:])
    assert (out / "weights").exists() != shuffled


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
            Backend.from_settings(BackendSettings(**facts)).engine,
        ):
            assert engine.weights.name == "nuclei"
            assert engine.predictor.serving.min_crop_size == 48
    (made / "model.safetensors").unlink()  # the installed copy is one of its own
    assert weights.load("nuclei").serving.min_crop_size == 48
    again = weights.save(tmp_path / "again", starter.config, starter.state_dict, "nuclei", stored="fp16")
    assert gate.install(again) == "nuclei"
    assert weights.load("nuclei").serving.min_crop_size == 200
    assert [p.name for p in (tmp_path / "cache" / "weights").iterdir()] == ["nuclei"]
