"""A project of a real Label Studio read through its API gives the data of its own export, while annotators go on."""

import json

import numpy as np
import pytest
from PIL import Image

from icmformer.fetching import label_studio_tasks
from icmformer.fetching.settings import FetchSettings
from icmformer.runs import MaskRuns
from ls_backend import rle
from training.finetuning.prepared import prepared
from training.finetuning.projects.label_studio import LabelStudioProject
from training.finetuning.settings import FinetuneSettings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SIZE = (40, 60)
TASKS, PAGE = 23, 5
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Cell"/></BrushLabels>
<EllipseLabels name="round" toName="image"><Label value="Cell"/></EllipseLabels></View>"""
RNG = np.random.default_rng(5)


def photo(folder, name):
    Image.fromarray(RNG.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / name)
    return (folder / name).read_bytes()


def region(number, kind, value):
    about = {"id": f"region-{number:05}", "type": f"{kind}labels", "to_name": "image", "origin": "manual"}
    name = {"brush": "brush", "ellipse": "round"}[kind]
    sizes = {"original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0}
    return {**about, "from_name": name, **sizes, "value": {**value, f"{kind}labels": ["Cell"]}}


def drawn(number):
    mask = np.zeros(SIZE, bool)
    mask[2 + number % 9 : 20, 3 + number % 7 : 25] = True
    oval = {"x": 70, "y": 60, "radiusX": 10 + number % 5, "radiusY": 12, "rotation": 20}
    return [region(1, "brush", {"format": "rle", "rle": rle.encode(MaskRuns.of(mask))}), region(2, "ellipse", oval)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("photos")


@pytest.fixture(scope="module")
def made(studio, folder):
    """A project with several annotations on a task, ground truth, cancelled ones, drafts and tasks without any."""
    number = studio.api("POST", "/api/projects", {"title": "e2e direct", "label_config": CONFIG})["id"]
    names = [f"p {n:02} (é).png" if n % 4 == 0 else f"p{n:02}.png" for n in range(TASKS)]
    studio.api("POST", f"/api/projects/{number}/import", files={name: photo(folder, name) for name in names})
    tasks = sorted(task["id"] for task in listed(studio, number))
    assert len(tasks) == TASKS
    for place, task in enumerate(tasks):
        if place % 6 == 5:
            continue
        annotate(studio, task, place)
        if place % 6 == 1:
            annotate(studio, task, place + 3, ground_truth=True)
            annotate(studio, task, place + 1)
        if place % 6 == 2:
            annotate(studio, task, place + 2, was_cancelled=True)
    annotate(studio, tasks[5], 0, was_cancelled=True)
    studio.api("POST", f"/api/tasks/{tasks[11]}/drafts", {"result": drawn(3)})
    return number, tasks


def listed(studio, number):
    return studio.api("GET", f"/api/tasks?project={number}&page_size=100")["tasks"]


def annotate(studio, task, number, **facts):
    studio.api("POST", f"/api/tasks/{task}/annotations/", {"result": drawn(number), **facts})


@pytest.fixture
def project_of(studio, tmp_path):
    def make(number, **options):
        own = FetchSettings(url=studio.url, api_key=studio.token, cache_dir=tmp_path / "cache")
        return LabelStudioProject.from_settings(own, number, **options)

    return make


def split_of(tmp_path, name, project=None, export=None, images=None, refresh=False):
    settings = FinetuneSettings(export, tmp_path / name, project=project, images=images, refresh=refresh)
    return prepared(settings).split


def exported(studio, number, path):
    path.write_bytes(json.dumps(studio.api("GET", f"/api/projects/{number}/export?exportType=JSON")).encode())
    return path


def pictures(tmp_path, run):
    found = sorted((tmp_path / run / "data").glob("*/*/*.png"))
    return {str(path.relative_to(tmp_path / run)): path.read_bytes() for path in found}


def test_the_data_are_those_of_label_studios_own_export(studio, made, project_of, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(label_studio_tasks, "PAGE", PAGE)
    number, tasks = made
    direct = split_of(tmp_path, "direct", project_of(number))
    export = split_of(tmp_path, "export", export=exported(studio, number, tmp_path / "x.json"), images=folder)
    assert len(list((tmp_path / "direct" / "snapshot").glob("tasks-*.json"))) == 4
    assert len(direct.photos) == sum(place % 6 != 5 for place in range(TASKS)) == 20
    assert direct.as_mapping() == export.as_mapping()
    assert pictures(tmp_path, "direct") == pictures(tmp_path, "export")
    groups = {photo.identity: photo.group for photo in direct.photos}
    assert len(groups) == 20

    accepted = split_of(tmp_path, "accepted", project_of(number, accepted=True))
    starred = [tasks[place] for place in range(TASKS) if place % 6 == 1]
    named = {task["id"]: task["data"]["image"] for task in listed(studio, number)}
    assert sorted(photo.identity for photo in accepted.photos) == sorted(named[task] for task in starred)


def test_no_task_is_missed_or_taken_twice_while_annotators_go_on(studio, folder, project_of, tmp_path, monkeypatch):
    monkeypatch.setattr(label_studio_tasks, "PAGE", PAGE)
    number = studio.api("POST", "/api/projects", {"title": "e2e meanwhile", "label_config": CONFIG})["id"]
    names = [f"m{n:02}.png" for n in range(16)]
    studio.api("POST", f"/api/projects/{number}/import", files={name: photo(folder, name) for name in names})
    tasks = sorted(task["id"] for task in listed(studio, number))
    for place, task in enumerate(tasks[:15]):
        annotate(studio, task, place)
    project, ask = project_of(number), project_of(number).studio.api
    pages = []

    def asked(path, *more):
        answer = ask(path, *more)
        if path.startswith("/api/tasks/"):
            pages.append(path)
            if len(pages) == 1:  # what was read goes, what nobody had annotated is, and new tasks come
                for task in tasks[:3]:
                    studio.api("DELETE", f"/api/tasks/{task}")
                annotate(studio, tasks[15], 3)
                studio.api("POST", f"/api/projects/{number}/import", files={"new.png": photo(folder, "new.png")})
        return answer

    monkeypatch.setattr(project.studio, "api", asked)
    project.snapshot(tmp_path / "s")
    files = sorted((tmp_path / "s").glob("tasks-*.json"))
    assert [task["id"] for path in files for task in json.loads(path.read_text())] == tasks
    assert len(pages) == 5


def test_a_refresh_where_nobody_drew_goes_on_and_takes_what_somebody_drew(studio, made, project_of, tmp_path, capsys):
    number, tasks = made
    before = split_of(tmp_path, "run", project_of(number))
    split_of(tmp_path, "run", project_of(number), refresh=True)
    assert "have changed" not in capsys.readouterr().out
    annotate(studio, tasks[17], 2)
    assert split_of(tmp_path, "run", project_of(number)).as_mapping() == before.as_mapping()
    assert len(split_of(tmp_path, "run", project_of(number), refresh=True).photos) == len(before.photos) + 1
