"""From a click to the annotators' own number of clicks: the ids of answers, the webhook, the log, the report."""

import io
import json
import subprocess
import sys

import pytest

from icmformer.cli.main import main
from icmformer.serving.click_log import ClickLog
from icmformer.serving.errors import BusyError, RequestError
from icmformer.serving.queue import RequestQueue
from ls_backend.app import _Budget, create_app
from ls_backend.backend import Backend
from ls_backend.saved_annotations import parse
from ls_backend.settings import BackendSettings
from tests.conftest import ROOT
from tests.ls_backend.conftest import POLYGON, UNIFIED, body, click


def webhook(annotation, *regions, action="ANNOTATION_CREATED"):
    """As Label Studio 1.23 sends it when an annotation is saved; `regions` as the page keeps them."""
    return {
        "action": action,
        "annotation": {"id": annotation, "was_cancelled": False, "lead_time": 3.8, "result": list(regions), "task": 6},
        "project": {"id": 6},
        "task": {"id": 6, "data": {"image": "/data/upload/1/cat.png"}},
    }


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "clicks.jsonl"


@pytest.fixture
def logged(fast, make_images, log):
    """A client of a backend with a click log."""
    backend = Backend(fast, make_images(), RequestQueue(1, 8, 5.0), 200, ClickLog(log))
    return create_app(backend, BackendSettings()).test_client()


def answers(client, *requests):
    return [client.post("/predict", json=r).json["results"][0]["result"] for r in requests]


def objects(client):
    """Count and sum of the metric of clicks an object."""
    told = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return tuple(
        sum(float(value) for name, value in told if name.startswith(f"icmformer_object_clicks_{what}{{"))
        for what in ("count", "sum")
    )


def test_the_annotators_number_of_clicks(logged, log, capsys):
    one, two = click(40, 40), click(60, 20, positive=False)
    first, corrected = answers(logged, body(one), body(one, two))
    (other,) = answers(logged, body(click(50, 60), config=UNIFIED))[0][:1]
    assert logged.post("/webhook", json=webhook(11, *corrected)).json["status"] == "noted"
    assert objects(logged) == (1, 2)
    edited = {**other, "origin": "prediction-changed"}
    logged.post("/webhook", json=webhook(11, *corrected, edited, action="ANNOTATION_UPDATED"))
    assert objects(logged) == (1, 2)  # what was there already is not counted again
    logged.post("/webhook", json=webhook(12, edited))
    assert objects(logged) == (2, 3)
    logged.post("/webhook", json=webhook(12, action="ANNOTATION_UPDATED"))  # it was deleted afterwards
    assert first[0]["id"] != corrected[0]["id"]
    assert main(["clicks", "report", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["label studio"]
    assert found["requests"] == 3
    assert found["clicks_a_request"]["by_number"] == {"1": 2, "2": 1}
    assert found["objects"] == 2
    assert found["clicks_an_object"] == {"mean": 1.5, "by_number": {"1": 1, "2": 1}}
    assert found["first_masks_accepted"] == 0.5
    assert found["edited"] == 0.5
    assert found["milliseconds"]["median"] > 0


def test_polygons_of_one_mask_are_one_object(logged):
    regions = answers(logged, body(click(40, 40), config=POLYGON))[0]
    parts = [regions[0], {**regions[0], "id": regions[0]["id"] + "-1"}]
    logged.post("/webhook", json=webhook(3, *parts))
    assert objects(logged) == (1, 1)


def test_the_log_has_neither_images_nor_names(logged, log):
    regions = answers(logged, body(click(40, 40)))[0]
    logged.post("/webhook", json=webhook(5, *regions))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["click", "accepted"]
    assert set(lines[0]) == {
        "time", "event", "tool", "request", "result", "region", "positive", "negative", "box", "area", "score",
        "milliseconds", "model",
    }  # fmt: skip
    assert 0 < lines[0]["area"] < 1
    identity, model = regions[0]["id"], lines[0]["model"]
    assert lines[1]["regions"] == [
        {"id": identity, "clicks": 1, "edited": False, "version": identity.split("v")[1], "model": model}
    ]
    assert "cat" not in log.read_text().replace(model, "").lower()
    assert log.stat().st_mode & 0o077 == 0  # the owner's alone


def test_an_annotation_counts_as_it_was_saved_last(logged, log, capsys):
    first, other = (answers(logged, body(click(x, 40)))[0] for x in (40, 60))
    for regions in (first, first, other, [], other):
        logged.post("/webhook", json=webhook(9, *regions, action="ANNOTATION_UPDATED"))
    logged.post("/webhook", json=webhook(10, *first))
    assert main(["clicks", "report", str(log), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label studio"]["objects"] == 2


def test_replicas_count_a_kept_mask_once(fast, make_images, log, capsys):
    """Whichever replicas hear of an annotation's saves."""
    one, other = (
        create_app(
            Backend(fast, make_images(), RequestQueue(1, 8, 5.0), 200, ClickLog(path)), BackendSettings()
        ).test_client()
        for path in (log, log.with_name("other.jsonl"))
    )
    first, second = (answers(one, body(click(x, 40)))[0] for x in (40, 60))
    one.post("/webhook", json=webhook(9, *first))
    other.post("/webhook", json=webhook(9, *first, *second, action="ANNOTATION_UPDATED"))
    other.post("/webhook", json=webhook(9, *first, *second, action="ANNOTATION_UPDATED"))
    one.post("/webhook", json=webhook(9, *first, *second, action="ANNOTATION_UPDATED"))
    assert objects(one)[0] + objects(other)[0] == 1
    assert main(["clicks", "report", str(log), str(log.with_name("other.jsonl")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label studio"]["objects"] == 2


SAVES = """
import json, sys
from flask.testing import FlaskClient
from icmformer.memory import release
from ls_backend.app import _Budget, create_app
from ls_backend.backend import Backend
from ls_backend.settings import BackendSettings
from tests.hostile.memory import _status
own = BackendSettings.from_environment()
client = create_app(Backend.from_settings(own), own).test_client()

def save(number):
    regions = [{"id": f"{number:04x}{n:012x}n1", "origin": "prediction"} for n in range(18_000)]
    sent = json.dumps({"action": "ANNOTATION_CREATED", "annotation": {"id": number, "result": regions}})
    assert len(sent) > 900_000
    assert client.post("/webhook", data=sent, content_type="application/json").json == {"status": "noted"}

save(0)
release()
before = _status("VmRSS")
for number in range(1, 51):
    save(number)
release()
print(_status("VmRSS") - before)
"""


def test_saves_take_no_memory(tmp_path):
    """Fifty saves of a megabyte once left two hundred behind."""
    done = subprocess.run([sys.executable, "-c", SAVES], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30e6


def test_saves_under_way_are_bounded_in_bytes():
    """By what has come of them, not by what they say; and the room comes free again."""
    budget = _Budget(32)
    for _ in range(2):
        with budget.read(io.BytesIO(b"x" * 16)) as one, budget.read(io.BytesIO(b"y" * 16)) as other:
            assert (one, other) == (b"x" * 16, b"y" * 16)
            with pytest.raises(BusyError), budget.read(io.BytesIO(b"z")):
                pass
            with budget.read(io.BytesIO()) as nothing:
                assert nothing == b""


@pytest.mark.parametrize("length", [17 << 20, 60 << 20])
def test_a_save_that_is_too_long_is_refused_by_its_length(logged, length):
    """Whatever it says it is: unread."""
    overrides = {"CONTENT_LENGTH": str(length)}
    reply = logged.post("/webhook", data=b"{}", content_type="application/json", environ_overrides=overrides)
    assert reply.status_code == 413
    assert "16 MB" in reply.json["error"]
    assert "ICMFORMER_MAX_BODY_MB" not in reply.json["error"]


def test_a_stranger_writes_nothing_where_credentials_are_asked_for(fast, make_images, log, caplog):
    backend = Backend(fast, make_images(), RequestQueue(1, 8, 5.0), 200, ClickLog(log))
    client = create_app(backend, BackendSettings(user="me", password="secret")).test_client()
    forged = webhook(1, {"id": "0123456789abcdefn1", "origin": "prediction"})
    assert client.post("/webhook", json=forged).json == {"status": "ignored"}
    assert client.post("/webhook", data=b"[" * 100_000).json == {"status": "ignored"}  # not looked at, not refused
    assert log.read_text() == ""
    assert sum("without credentials" in record.getMessage() for record in caplog.records) == 1
    for guess in ("wrong", "Secret", ""):  # each is told to who runs it, and none is told from another
        reply = client.post("/webhook", json=forged, auth=("me", guess))
        assert (reply.status_code, reply.json["kind"]) == (401, "not authorised")
    assert sum("without the right credentials" in record.getMessage() for record in caplog.records) == 3
    assert log.read_text() == ""
    assert client.post("/webhook", json=forged, auth=("me", "secret")).json == {"status": "noted"}
    assert log.read_text() != ""


@pytest.mark.parametrize(
    "sent",
    [
        {"action": "PROJECT_UPDATED", "project": {"id": 1}},
        {"action": "ANNOTATION_CREATED"},  # set to send no payload
        webhook(3),
        webhook(3, {"id": "by hand", "origin": "manual"}, 7, {"id": 5}, {}),
        webhook(3, {"id": "0123456789abcdefn3", "origin": "manual"}),  # not of a prediction
        webhook(3, {"id": "0123456789abcdefn99999", "origin": "prediction"}),  # no number of clicks
        webhook(3, {"id": "0123456789abcdefn\u0663", "origin": "prediction"}),
    ],
)
def test_saves_without_a_mask_of_ours(logged, log, sent):
    reply = logged.post("/webhook", json=sent)
    assert (reply.status_code, reply.json["status"]) == (200, "ignored")
    assert log.read_text() == ""


@pytest.mark.parametrize(
    "sent", [[], "text", {"action": "ANNOTATION_CREATED", "annotation": 3}, webhook("3"), webhook(None)]
)
def test_what_is_no_webhook_is_refused(logged, sent):
    assert logged.post("/webhook", json=sent).status_code == 400
    with pytest.raises(RequestError):
        parse(sent)
