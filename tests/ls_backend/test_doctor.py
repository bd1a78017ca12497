"""What `icmformer doctor` finds at Label Studio: against a server that answers as a real one does."""

import json
import socket
import sys
import threading

import pytest

from tests.conftest import ROOT
from tests.doctor import Doctor, Server, forget_environment, nobody
from tests.ls_backend.conftest import BRUSH, POLYGON, SEVERAL, UNIFIED

RECORDED = {
    path.stem: json.loads(path.read_text())["request"]["label_config"]
    for path in sorted((ROOT / "tests/contract/label_studio").glob("*.json"))
}
LEGACY, PERSONAL = "1234567890abcdef-legacy", "head.claims-secret.signature"
ANYBODY, BACKENDS = "/api/current-user/whoami", "/api/ml?project=7"
LINES = ["label studio settings", "label studio", "label studio token", "label studio project"]
PROJECT_LINES = ["labelling config", "ml backend", "interactive preannotations"]


def backend(**changes):
    """A connected backend as /api/ml tells it."""
    return {
        "id": 1,
        "state": "CO",
        "readable_state": "Connected",
        "is_interactive": True,
        "url": "http://backend:9090",
        "error_message": None,
        "model_version": "icmformer starter e5d8eddf fast",
    } | changes


REPEATED, BY_TASK = RECORDED["1.23.2_repeater"], RECORDED["1.23.2_labels_from_task"]


@pytest.fixture
def studio():
    server = Server(
        {
            "/api/version/": (200, {"release": "1.23.2"}),
            ANYBODY: (200, {"id": 1, "email": "eve@example.org"}),
            "/api/projects/7/": (200, {"id": 7, "title": "cats", "label_config": BRUSH}),
            BACKENDS: (200, [backend()]),
        },
        tokens=(f"Token {LEGACY}", "Bearer short-lived"),
        public=("/api/version/",),
        exchange={PERSONAL: "short-lived"},
    )
    yield server
    server.end()


@pytest.fixture
def doctor(capsys, monkeypatch, studio):
    """Runs the command with the studio's address and token in the environment."""
    forget_environment(monkeypatch)
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    return Doctor(capsys, LEGACY, PERSONAL, "short-lived", "wrong-token")


@pytest.mark.parametrize("config", [BRUSH, UNIFIED, POLYGON, SEVERAL, *RECORDED.values()])
def test_a_healthy_project_is_well_in_every_line(doctor, studio, monkeypatch, config):
    """Whatever config the page was seen to work with; with tokens of both kinds."""
    studio.routes["/api/projects/7/"] = (200, {"id": 7, "title": "cats", "label_config": config})
    for token, kind in ((LEGACY, "legacy"), (PERSONAL, "personal")):
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
        report = doctor("--project", "7")
        assert report.code == 0
        assert {report.state(name) for name in (*LINES, *PROJECT_LINES, "clock")} == {"ok"}
        assert kind in report.told("label studio token")
        assert "1.23.2" in report.told("label studio")


def test_the_option_wins_over_the_variable_and_no_token_is_a_warning(doctor, studio, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_URL", nobody())
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    report = doctor("--label-studio", studio.url)
    assert report.code == 0
    assert report.state("label studio token") == "warning"
    assert "LABEL_STUDIO_API_KEY" in report.told("label studio token")
    assert doctor("--label-studio", studio.url, "--project", "7").failed == ["label studio token"]
    assert not [asked for asked, token in studio.asked if token]


def test_a_proxy_is_told_with_what_goes_through_it(doctor, studio, monkeypatch):
    """A Label Studio of this network is asked directly, a public one through the proxy, as its images are."""
    seen = Server({"http://label.example/api/version/": (200, {"release": "1.23.2"})}, public=("http",))
    monkeypatch.setenv("http_proxy", seen.url.replace("http://", "http://me:hidden@"))
    report = doctor()
    assert report.state("label studio") == "ok"
    assert f"images from public hosts come through {seen.url}" in report.told("label studio settings")
    assert "proxy" not in report.told("label studio")
    assert not seen.asked
    look_up = socket.getaddrinfo
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: public if host == "label.example" else look_up(host, *a, **k)
    )
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://label.example")
    seen.routes["http://label.example" + ANYBODY] = (401, {})
    report = doctor()
    assert f"1.23.2 at http://label.example, through the proxy {seen.url}" in report.told("label studio")
    assert "hidden" not in report.output
    seen.end()


def test_without_the_backends_packages_it_says_which_is_missing(doctor, monkeypatch):
    monkeypatch.setitem(sys.modules, "urllib3", None)
    monkeypatch.delitem(sys.modules, "ls_backend.fetch")
    report = doctor()
    assert "urllib3 is not installed" in report.told("label studio")
    assert "[label-studio]" in report.told("label studio")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("NOBODY", "Connection refused"),
        ("http://no.such.host.invalid", "does not resolve"),
    ],
)
def test_nothing_at_the_address_is_found(doctor, monkeypatch, url, text):
    monkeypatch.setenv("LABEL_STUDIO_URL", url.replace("NOBODY", nobody()))
    report = doctor("--project", "7")
    report.fails_in("label studio", text, "-> start it, or set LABEL_STUDIO_URL")
    assert {report.state(name) for name in (*LINES[2:], *PROJECT_LINES, "clock")} == {"skipped"}


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        (b"", "within 0.3 s"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "SSH-2.0"),
    ],
)
def test_a_server_that_never_answers_or_is_no_http_takes_seconds_and_one_line(doctor, monkeypatch, greeting, text):
    monkeypatch.setattr("ls_backend.doctor.NETWORK_SECONDS", 0.3)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet():
            there, _ = other.accept()
            there.sendall(greeting)
            over.wait(20)
            there.close()

        threading.Thread(target=greet, daemon=True).start()
        monkeypatch.setenv("LABEL_STUDIO_URL", f"http://127.0.0.1:{other.getsockname()[1]}")
        report = doctor()
        over.set()
    report.fails_in("label studio", text)


@pytest.mark.parametrize(
    ("routes", "text"),
    [
        ({ANYBODY: (200, {}), "/api/version/": (404, {})}, "is not Label Studio"),
        ({ANYBODY: (200, {}), "/api/version/": (200, b"<html>")}, "is not Label Studio"),
        ({ANYBODY: (404, {})}, "has nothing at"),  # what a real one says below a wrong sub-path
        ({ANYBODY: (503, {})}, "down"),
    ],
)
def test_what_is_not_label_studio_at_that_address_is_told(doctor, studio, routes, text):
    studio.tokens = None
    studio.routes |= routes
    doctor("--project", "7").fails_in("label studio", text)


@pytest.mark.parametrize("token", ["wrong-token", "wrong-token.of.three"])
def test_a_wrong_token_is_found_and_not_shown(doctor, monkeypatch, token):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", token)
    report = doctor("--project", "7")
    report.fails_in("label studio token", "set LABEL_STUDIO_API_KEY")
    assert report.state("labelling config") == "skipped"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LABEL_STUDIO_URL", "localhost:8080"),
        ("LABEL_STUDIO_URL", "http://eve:wrong-token@localhost"),
        ("LABEL_STUDIO_API_KEY", "wrong-token with blanks"),
        ("ICMFORMER_FETCH_SECONDS", "soon"),
        ("BASIC_AUTH_USER", "eve"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "chatty"),
    ],
)
def test_a_wrong_setting_of_the_backend_is_one_line(doctor, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    doctor().fails_in("label studio settings", name)


def test_a_project_that_is_not_there_or_has_no_address_is_found(doctor, monkeypatch):
    doctor("--project", "8").fails_in("label studio project", "404", "-> give --project")
    monkeypatch.delenv("LABEL_STUDIO_URL")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    doctor("--project", "7").fails_in("label studio", "LABEL_STUDIO_URL")


@pytest.mark.parametrize(
    ("config", "text", "remedy"),
    [
        (BRUSH.replace(' smart="true"', ""), "no smart tool", 'smart="true"'),
        (BRUSH.replace("BrushLabels", "EllipseLabels"), "nothing to answer with", "BrushLabels"),
        (BRUSH.replace("<Image ", "<Video "), "no <Image", "Labeling Interface"),
        (BRUSH.replace('toName="image"><Label value="Cat"/>', 'toName="image">'), "Cat", "same labels"),
        (BRUSH.replace('"brush" toName="image"', '"brush"'), "'brush' has no toName", 'toName="image"'),
        (REPEATED.replace("BrushLabels", "EllipseLabels"), "nothing to answer with", "BrushLabels"),
        (REPEATED.replace(' smart="true"', ""), "no smart tool", 'smart="true"'),
        (BY_TASK.replace("KeyPointLabels", "Choices"), "no smart tool", 'smart="true"'),
        ("<View><Image", "not XML", "Labeling Interface"),
        ("", "not XML", "Labeling Interface"),
    ],
)
def test_what_a_labelling_config_lacks_is_said(doctor, studio, config, text, remedy):
    studio.routes["/api/projects/7/"] = (200, {"id": 7, "title": "cats", "label_config": config})
    report = doctor("--project", "7")
    report.fails_in("labelling config", text)
    assert remedy in report.checks["labelling config"]["advice"]


@pytest.mark.parametrize(
    ("backends", "line", "texts"),
    [
        ([], "ml backend", ["no model is connected", "Connect Model"]),
        ([backend(state="DI", readable_state="Disconnected")], "ml backend", ["Disconnected", "/health"]),
        ([backend(state="ER", readable_state="Error", error_message="no\nroute")], "ml backend", ["no route", "start"]),
        ([backend(is_interactive=False)], "interactive preannotations", ["off", "-> Settings, Model", "switch on"]),
        ([backend(model_version="sam"), backend(is_interactive=False)], "interactive preannotations", ["off"]),
    ],
)
def test_a_project_without_our_backend_at_work_is_found(doctor, studio, backends, line, texts):
    studio.routes[BACKENDS] = (200, backends)
    doctor("--project", "7").fails_in(line, *texts)


def test_a_backend_of_others_is_a_warning(doctor, studio):
    studio.routes[BACKENDS] = (200, [backend(model_version="sam")])
    report = doctor("--project", "7")
    assert (report.code, report.state("ml backend")) == (0, "warning")
    assert "sam" in report.told("ml backend")


@pytest.mark.parametrize(("hours", "text"), [(1, "behind that of label studio"), (-1, "ahead of that of label studio")])
def test_a_clock_an_hour_off_is_found_in_its_line_alone(doctor, studio, hours, text):
    studio.clock = hours * 3600
    report = doctor("--project", "7")
    report.fails_in("clock", text, "timedatectl")
    assert report.checks["clock"]["facts"]["clock_offset_s"] == pytest.approx(-3600 * hours, abs=5)
