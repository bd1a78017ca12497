"""A task of CVAT as the data of a fine-tuning run, by the options of the command."""

import io

import numpy as np
import pytest
from PIL import Image

from icmformer.errors import ConfigError
from icmformer.fetching import cvat as client
from icmformer.fetching.cvat import CvatError
from tests.cvat.standin import TOKEN, Job, Task
from tests.doctor import forget_environment
from tests.training.finetuning import cvat_exports as exports
from tests.training.finetuning.test_cvat import HEIGHT, WIDTH, disc
from training import finetune
from training.finetuning.prepared import prepared
from training.finetuning.projects.choice import project_of
from training.finetuning.settings import FinetuneSettings

PHOTOS = 12


def noise(seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def mask(number, frame, pixels):
    drawn = exports.mask_shape(pixels)
    facts = {"id": number, "type": "mask", "frame": frame, "label_id": 1, "points": list(drawn.points), "z_order": 0}
    return {**facts, "source": "semi-auto", "group": 0, "rotation": 0.0, "attributes": []}


@pytest.fixture
def server(serve, monkeypatch, tmp_path):
    forget_environment(monkeypatch)
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)
    monkeypatch.setattr(client.Cvat.__init__, "__defaults__", (5.0, (0.01, 0.01)))
    half = PHOTOS // 2
    jobs = [
        Job(job, first, first + half - 1, shapes=[mask(n, n, disc(10, 10 + n)) for n in range(first, first + half)])
        for job, first in ((1, 0), (2, half))
    ]
    return serve(Task(7, [(f"{n}.png", noise(n), WIDTH, HEIGHT) for n in range(PHOTOS)], jobs, exports.LABELS))


def settings(server, tmp_path, refresh=False, **of):
    project = project_of(cvat=server.url, **(of or {"task": 7}))
    return FinetuneSettings(None, tmp_path / "run", project=project, refresh=refresh, weights="tiny")


def frames_asked(server):
    return [path for _, path in server.asked if "type=frame" in path]


def test_a_task_is_read_fetched_once_and_split(server, tmp_path):
    (tmp_path / "run").mkdir()
    server.faults = [("number=7", "drop", 3)]
    with pytest.raises(CvatError):
        prepared(settings(server, tmp_path))  # CVAT goes away in the middle
    made = prepared(settings(server, tmp_path))
    assert sorted(photo.identity for photo in made.split.photos) == sorted(f"{n}.png" for n in range(PHOTOS))
    assert {photo.part for photo in made.split.photos} == {"train", "choosing", "held_out"}
    assert len(frames_asked(server)) == PHOTOS
    server.asked.clear()
    assert prepared(settings(server, tmp_path)).split.content == made.split.content
    assert server.asked == []


def test_only_a_refresh_sees_what_was_drawn_since(server, tmp_path):
    (tmp_path / "run").mkdir()
    before = prepared(settings(server, tmp_path))
    server.jobs[1][1].shapes.append(mask(99, 0, disc(30, 40)))
    assert prepared(settings(server, tmp_path)).split.content == before.split.content
    server.asked.clear()
    after = prepared(settings(server, tmp_path, refresh=True))
    assert sum(photo.objects for photo in after.split.photos) == PHOTOS + 1
    assert frames_asked(server) == []


def test_the_command_says_in_a_line_what_is_wrong(server, tmp_path, capsys, monkeypatch):
    words = ["--cvat", server.url, "--out", str(tmp_path / "run")]
    assert finetune.main([*words, "--task", "8"]) == 2
    assert "task 8: CVAT answers 404" in capsys.readouterr().err
    monkeypatch.delenv("CVAT_ACCESS_TOKEN")
    assert finetune.main([*words, "--task", "7"]) == 2
    told = capsys.readouterr().err
    assert "set CVAT_ACCESS_TOKEN" in told
    assert "Traceback" not in told
    with pytest.raises(ConfigError, match="--task N"):
        project_of(cvat=server.url)
