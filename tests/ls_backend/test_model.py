"""The class for the official runtime, over a stand-in for its base: the real package cannot be installed from PyPI."""

import sys
import types

import pytest

from tests.ls_backend.conftest import BRUSH, body, click
from tests.ls_backend.trainings import DRAWN, Trainings, ended


@pytest.fixture
def model(monkeypatch, make_backend):
    class Base:
        """What label-studio-ml 2.x hands to a model: the labelling config, and a place for its version."""

        def __init__(self, label_config):
            self.label_config, self.kept = label_config, {}
            self.setup()

        def set(self, key, value):
            self.kept[key] = value

    class Response:
        def __init__(self, predictions, model_version):
            self.predictions, self.model_version = predictions, model_version

    for name, content in (("model", {"LabelStudioMLBase": Base}), ("response", {"ModelResponse": Response})):
        module = types.ModuleType(f"label_studio_ml.{name}")
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, f"label_studio_ml.{name}", module)
    monkeypatch.setitem(sys.modules, "label_studio_ml", types.ModuleType("label_studio_ml"))
    monkeypatch.delitem(sys.modules, "ls_backend.model", raising=False)
    from ls_backend import model

    backend = make_backend()
    monkeypatch.setattr(model, "_backend", lambda: backend)
    yield model.ICMFormerModel(label_config=BRUSH), backend
    sys.modules.pop("ls_backend.model", None)


def test_it_answers_as_the_route_does(model):
    runtime, backend = model
    request = body(click(40, 40), click(80, 80, positive=False))
    reply = runtime.predict(request["tasks"], request["params"]["context"], anything=1)
    assert reply.predictions == backend.predict(request).reply["results"]
    assert reply.predictions[0]["result"]
    assert runtime.kept["model_version"] == reply.model_version == backend.model_version


def test_a_bad_request_gets_nothing_and_a_log_line(model, caplog):
    runtime, _ = model
    request = body(click(40, 40), image="/data/upload/1/none.png")
    assert runtime.predict(request["tasks"], request["params"]["context"]).predictions == []
    assert "404" in caplog.text


def test_start_training_and_saved_annotations_do_what_the_routes_do(model, tmp_path):
    runtime, backend = model
    press = {"action": "START_TRAINING", "project": {"id": 3}}
    assert "ICMFORMER_TRAINING_DIR" in runtime.fit("START_TRAINING", press)["status"]
    assert 'kind="training refused"} 1.0' in backend.metrics.text().decode()
    trainings = Trainings(tmp_path)
    backend.trainings = trainings.jobs(training_every=1)
    assert "project must be" in runtime.fit("START_TRAINING", {"project": {"id": "x"}})["status"]
    assert runtime.fit("START_TRAINING", press)["job"] == "project-3/run-1"
    trainings.end()
    ended(backend.trainings)
    created = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": DRAWN}, "project": {"id": 4}}
    assert runtime.fit("ANNOTATION_CREATED", created) == {"status": "ignored"}  # none of its masks is ours
    ended(backend.trainings)
    assert trainings.run("project-4/run-1").exists()
