"""The routes: who may, what is refused and how, and that nothing that is sent breaks anything."""

import json
import re
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icmformer.errors import ConfigError
from ls_backend.app import create_app
from ls_backend.settings import BackendSettings
from tests.ls_backend.conftest import BRUSH, body, click


def test_health_setup_versions_and_webhook(client):
    for path in ("/", "/health"):
        assert client.get(path).json["status"] == "UP"
    version = client.post("/setup", json={"project": "1.1", "schema": BRUSH, "hostname": "http://x"}).json[
        "model_version"
    ]
    assert client.post("/versions", json={"project": "1"}).json["versions"] == [version]
    assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200


def test_credentials_are_asked_for_everywhere_but_where_label_studio_has_none(make_client):
    client = make_client(BackendSettings(user="team", password="secret"))
    for path in ("/health", "/webhook"):
        assert client.open(path, method="GET" if path == "/health" else "POST", json={}).status_code == 200
    for method, path in (("GET", "/"), ("POST", "/predict"), ("POST", "/setup"), ("GET", "/metrics"), ("GET", "/none")):
        assert client.open(path, method=method, json=body()).status_code == 401
        assert client.open(path, method=method, json=body(), auth=("team", "guess")).status_code == 401
    reply = client.post("/predict", json=body(), auth=("team", "secret"))
    assert reply.status_code == 200
    assert client.get("/").headers["WWW-Authenticate"].startswith("Basic")


def without(key, request):
    del request[key]
    return request


def with_item(**changes):
    item = click(40, 40)
    value = {**item["value"], **changes.pop("value", {})}
    return body({**item, "value": value, **changes})


@pytest.mark.parametrize(
    ("request_body", "status", "text"),
    [
        ([], 400, "the body must be an object"),
        ({}, 200, None),
        ("text", 400, "the body must be"),
        (without("tasks", body(click(1, 1))), 400, "tasks must be a list"),
        ({**body(click(1, 1)), "tasks": []}, 400, "tasks is empty"),
        ({**body(click(1, 1)), "tasks": [3]}, 400, "tasks[0] must be an object"),
        (without("label_config", body(click(1, 1))), 400, "label_config must be a text"),
        (body(click(1, 1), config="<View"), 400, "not XML"),
        (body(click(1, 1), config="<View/>"), 400, "no <Image"),
        (body(click(1, 1), config='<!DOCTYPE a [<!ENTITY b "c">]>' + BRUSH), 400, "entities"),
        (body(click(1, 1), config='<View><Image name="image" value="$image"/></View>'), 400, "no BrushLabels"),
        ({**body(click(1, 1)), "params": 3}, 400, "params must be a JSON object"),
        ({**body(), "params": {"context": 3}}, 400, "params.context must be an object"),
        ({**body(), "params": {"context": {"result": 3}}}, 400, "must be a list"),
        ({**body(), "params": {"context": {"result": [3]}}}, 400, "result[0] must be an object"),
        (with_item(to_name="nothing"), 400, "'nothing', which is not an image"),
        (with_item(value={"x": 140}), 400, "outside the image"),
        (with_item(value={"y": -3}), 400, "outside the image"),
        (with_item(value={"x": "left"}), 400, "value.x must be a number"),
        (with_item(value={"x": None}), 400, "value.x must be a number"),
        (with_item(value={"x": True}), 400, "value.x must be a number"),
        (with_item(value={"x": 10**400}), 400, "value.x must be a number"),
        (with_item(type="choices"), 400, "is not a click"),
        (with_item(is_positive="false"), 400, "is_positive must be true or false"),
        (body(click(1, 1), config=BRUSH.replace("Cup", "\ud800")), 400, "not XML"),
        (with_item(value={"x": "5" * 1_000_000}), 400, "value.x must be a number"),
        (with_item(original_width="wide"), 400, "original_width"),
        (with_item(original_width=999), 422, "was it replaced"),
        (with_item(item_index="first"), 400, "item_index"),
        (body(click(1, 1, label="Dog")), 400, "give both controls the same labels"),
        (body(click(1, 1), image=None), 400, "no field 'image'"),
        (body(click(1, 1), image=5), 400, "must be an address"),
        (body(click(1, 1), image=[]), 400, "no image of the 0"),
        (body(click(1, 1), image="\ud800"), 400, "unpaired surrogate"),
        (body(click(1, 1), image="/data/upload/1/none.png"), 502, "404"),
        (body(click(1, 1), image="http://10.0.0.1/x"), 403, "ICMFORMER_ALLOWED_HOSTS"),
        (body(click(1, 1), image="/data/upload/1/text.png"), 422, "text.png"),
        (body(click(1, 1), image="/data/upload/1/endless.png"), 413, "MB"),
    ],
)
def test_what_is_wrong_is_said_and_logged(client, server_log, request_body, status, text):
    reply = client.post("/predict", data=json.dumps(request_body), content_type="application/json")
    assert reply.status_code == status, reply.text
    if text is None:
        return
    assert text in reply.json["error"]
    assert "Traceback" not in reply.text
    (line,) = [line for line in server_log.getvalue().splitlines() if " WARNING " in line]
    assert reply.json["error"] in line
    assert f"[{reply.headers['X-Request-Id']}]" in line
    assert len(reply.data) < 1000


def test_a_path_cannot_write_lines_of_its_own_into_the_log(client, caplog):
    client.get("/x%0aERROR forged line")
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_bodies_that_are_no_json_or_too_long(client):
    assert client.post("/predict", data=b"\xff{").status_code == 400
    assert client.post("/predict", data=b"[" * 200_000).status_code == 400
    reply = client.post("/predict", data=b"x" * (9 << 20))
    assert reply.status_code == 413
    assert "ICMFORMER_MAX_BODY_MB" in reply.json["error"]
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.get("/predict").json["kind"] == "method not allowed"


def test_a_webhook_is_shorter_than_a_body_may_be(make_client):
    client = make_client(settings=BackendSettings())
    long = {"data": b" " * (17 << 20), "content_type": "application/json"}
    assert client.post("/webhook", **long).status_code == 413
    assert client.post("/predict", **long).status_code == 400


def test_a_content_type_does_not_matter(client):
    assert client.post("/predict", data=json.dumps(body(click(40, 40))), content_type="text/plain").status_code == 200


def test_a_busy_backend_says_when_to_come_again(make_client, make_backend):
    backend = make_backend(queue=0, seconds=0.2)
    client = create_app(backend, BackendSettings()).test_client()
    entered, leave = threading.Event(), threading.Event()

    def occupy():
        with backend.requests.enter():
            entered.set()
            leave.wait(10)

    threading.Thread(target=occupy, daemon=True).start()
    entered.wait(5)
    reply = client.post("/predict", json=body(click(40, 40)))
    leave.set()
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) > 0


def test_a_fault_of_ours_is_a_500_without_its_traceback(make_backend, monkeypatch, caplog):
    backend = make_backend()
    monkeypatch.setattr(backend.core.engine.__class__, "segment", lambda *_, **__: 1 / 0)
    reply = create_app(backend, BackendSettings()).test_client().post("/predict", json=body(click(40, 40)))
    assert reply.status_code == 500
    assert "ZeroDivision" not in reply.text
    assert reply.headers["X-Request-Id"] in reply.json["error"]
    assert "ZeroDivisionError" in caplog.text


def test_a_caller_may_name_the_request(client, server_log):
    reply = client.post("/predict", json=[], headers={"X-Request-Id": "ingress-7.a_b"})
    assert reply.headers["X-Request-Id"] == "ingress-7.a_b"
    assert "[ingress-7.a_b] bad request" in server_log.getvalue()
    for name in ("x" * 65, "two words", "forged]", "ünïcode"):
        reply = client.post("/predict", json=[], headers={"X-Request-Id": name})
        assert re.fullmatch("[0-9a-f]{12}", reply.headers["X-Request-Id"])


def test_ready_says_when_no_more_clicks_fit(make_backend):
    backend = make_backend(queue=1)
    client = create_app(backend, BackendSettings(user="me", password="secret")).test_client()
    assert client.get("/ready").json == {"status": "READY", "waiting": 0}
    with backend.requests.arrival("an object") as turn, backend.requests.enter(turn):
        assert client.get("/ready").status_code == 200  # one may still wait
        with backend.requests.arrival("another"):
            reply = client.get("/ready")
            assert (reply.status_code, reply.json) == (503, {"status": "BUSY", "waiting": 1})
            assert client.get("/health").status_code == 200  # it lives, busy or not


def test_metrics_count_what_happened(client):
    client.post("/predict", json=body(click(40, 40)))
    client.post("/predict", json=body(click(40, 400)))
    told = client.get("/metrics").text
    assert 'icmformer_requests_total{route="/predict",status="200"} 1.0' in told
    assert 'icmformer_requests_total{route="/predict",status="400"} 1.0' in told
    assert 'icmformer_predictions_total{kind="mask"} 1.0' in told
    assert 'icmformer_errors_total{kind="bad request"} 1.0' in told
    assert 'icmformer_request_seconds_count{route="/predict"} 2.0' in told
    assert 'icmformer_request_clicks_bucket{le="1.0"} 1.0' in told
    assert re.search(
        r'icmformer_model\{device="cpu",digest="[0-9a-f]{8}",profile="fast",.*weights="starter.*"\} 1.0', told
    )
    assert 'icmformer_stage_seconds_count{stage="segment"} 1.0' in told
    assert "icmformer_waiting_requests 0.0" in told
    figures = dict(re.findall(r'(icmformer_cache_\w+\{cache="\w+"\}) ([\d.e+]+)', told))
    assert float(figures['icmformer_cache_bytes{cache="images"}']) >= 300 * 451 * 3
    assert float(figures['icmformer_cache_misses_total{cache="images"}']) >= 1
    assert {f'icmformer_cache_evictions_total{{cache="{name}"}}' for name in ("features", "states", "images")} <= set(
        figures
    )


def test_a_reply_tells_its_stages_and_so_do_the_metrics(client):
    reply = client.post("/predict", json=body(click(41.3, 38.7)))  # that no other test clicks on: nothing is kept
    told = re.findall(r"([\w.]+);dur=([\d.]+)", reply.headers["Server-Timing"])
    stages = {name: float(spent) for name, spent in told}
    assert {"fetch", "wait", "segment", "encode", "segment.decode", "segment.resize"} <= set(stages)
    assert 0 < sum(spent for name, spent in stages.items() if name.startswith("segment.")) <= stages["segment"] + 1
    assert 'icmformer_network_seconds_count{stage="decode"} 1.0' in client.get("/metrics").text
    assert "Server-Timing" not in client.post("/predict", json=body(click(40, 400))).headers


TEXTS = st.text(max_size=20) | st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = [
    ("tasks",),
    ("tasks", 0),
    ("tasks", 0, "id"),
    ("tasks", 0, "data"),
    ("tasks", 0, "data", "image"),
    ("label_config",),
    ("params",),
    ("params", "context"),
    ("params", "context", "result"),
    ("params", "context", "result", 0),
    *[
        ("params", "context", "result", 0, k)
        for k in ("type", "id", "to_name", "is_positive", "original_width", "value")
    ],
    *[("params", "context", "result", 0, "value", k) for k in ("x", "y", "width", "height", "rotation", "labels")],
]


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(st.tuples(st.sampled_from(PATHS), JSON), min_size=1, max_size=3), st.booleans(), TEXTS)
def test_nothing_that_is_sent_is_a_fault_of_ours(client, changes, rectangle, text):
    item = click(40, 40)
    changes = [*changes, (("label_config",), BRUSH.replace("Cup", text))] if len(text) % 3 == 1 else changes
    if rectangle:
        item |= {"type": "rectanglelabels", "value": {**item["value"], "height": 20, "rotation": 3}}
    request = json.loads(json.dumps(body(item)))
    for path, value in changes:
        place = request
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    reply = client.post("/predict", data=json.dumps(request))
    assert reply.status_code in (200, 400, 403, 413, 422, 502), (request, reply.text)
    assert "Traceback" not in reply.text


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"LABEL_STUDIO_URL": "localhost:8080"}, "LABEL_STUDIO_URL must be an address"),
        ({"LABEL_STUDIO_URL": "http://[bad"}, "LABEL_STUDIO_URL must be an address"),
        ({"LABEL_STUDIO_API_KEY": "abc"}, "needs LABEL_STUDIO_URL"),
        ({"LABEL_STUDIO_URL": "http://a", "LABEL_STUDIO_API_KEY": "a\nb"}, "LABEL_STUDIO_API_KEY holds blanks"),
        ({"ICMFORMER_ALLOWED_HOSTS": "a.example:80"}, "without scheme, port or path"),
        ({"ICMFORMER_POLYGON_POINTS": "3"}, "ICMFORMER_POLYGON_POINTS"),
        ({"BASIC_AUTH_USER": "x"}, "go together"),
        ({"ICMFORMER_QUEUE": "many"}, "ICMFORMER_QUEUE must be a whole number"),
    ],
)
def test_settings_that_cannot_work_are_named(environment, text):
    with pytest.raises(ConfigError, match=text):
        BackendSettings.from_environment(environment)


def test_settings_are_read():
    read = BackendSettings.from_environment(
        {
            "LABEL_STUDIO_URL": "http://ls:8080/sub/",
            "LABEL_STUDIO_API_KEY": "k",
            "ICMFORMER_ALLOWED_HOSTS": "A.example, *.b, 127.0.0.1",
        }
    )
    assert (read.url, read.api_key) == ("http://ls:8080/sub", "k")
    assert read.allowed_hosts == ("a.example", "*.b", "localhost")
