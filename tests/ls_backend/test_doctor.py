"""What `icmformer doctor` finds at Label Studio: against a server that answers as a real one does."""

import json
import socket
import sys
import threading

import pytest

from tests.conftest import ROOT
from tests.doctor import Doctor, Server, forget_environment, nobody, plant
from tests.ls_backend.conftest import BRUSH, POLYGON, SEVERAL, UNIFIED

RECORDED = {
    path.stem: json.loads(path.read_text())["request"]["label_config"]
    for path in sorted((ROOT / "tests/contract/label_studio").glob("*.json"))
}
LEGACY, PERSONAL = "1234567890abcdef-legacy", "head.claims-secret.signature"
ANYBODY, PROJECT, BACKENDS = "/api/current-user/whoami", "/api/projects/7/", "/api/ml?project=7"
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
            PROJECT: (200, {"id": 7, "title": "cats", "label_config": BRUSH}),
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
    studio.routes[PROJECT] = (200, {"id": 7, "title": "cats", "label_config": config})
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
    for module in ("http", "label_studio"):
        monkeypatch.delitem(sys.modules, f"icmformer.fetching.{module}")
    report = doctor()
    assert "urllib3 is not installed" in report.told("label studio")
    assert "[label-studio]" in report.told("label studio")


CONFIG, LINK, INTERACTIVE = PROJECT_LINES
ABSENT = {ANYBODY: (200, {}), "/api/version/": (404, {})}


def config(text):
    return {PROJECT: (200, {"id": 7, "title": "cats", "label_config": text})}


@pytest.mark.parametrize(
    ("faults", "line", "texts"),
    [
        ({"LABEL_STUDIO_URL": "NOBODY"}, "label studio", ["refused", "-> start it, or set LABEL_STUDIO_URL"]),
        ({"LABEL_STUDIO_URL": "http://no.such.host.invalid"}, "label studio", ["does not resolve", "LABEL_STUDIO_URL"]),
        (ABSENT, "label studio", ["is not Label Studio"]),
        (ABSENT | {"/api/version/": (200, b"<html>")}, "label studio", ["is not Label Studio"]),
        ({ANYBODY: (404, {})}, "label studio", ["has nothing at"]),  # what a real one says below a wrong sub-path
        ({ANYBODY: (503, {})}, "label studio", ["down"]),
        ({"LABEL_STUDIO_URL": "localhost:8080"}, LINES[0], ["LABEL_STUDIO_URL"]),
        ({"LABEL_STUDIO_URL": "http://eve:wrong-token@localhost"}, LINES[0], ["LABEL_STUDIO_URL"]),
        ({"LABEL_STUDIO_API_KEY": "wrong-token with blanks"}, LINES[0], ["LABEL_STUDIO_API_KEY"]),
        ({"ICMFORMER_FETCH_SECONDS": "soon"}, LINES[0], ["ICMFORMER_FETCH_SECONDS", "docs/label_studio.md"]),
        ({"BASIC_AUTH_USER": "eve"}, LINES[0], ["BASIC_AUTH_USER"]),
        ({"LOG_FORMAT": "xml"}, LINES[0], ["LOG_FORMAT"]),
        ({"LOG_LEVEL": "chatty"}, LINES[0], ["LOG_LEVEL"]),
        ({"LABEL_STUDIO_API_KEY": "wrong-token"}, "label studio token", ["set LABEL_STUDIO_API_KEY"]),
        ({"LABEL_STUDIO_API_KEY": "wrong-token.of.three"}, "label studio token", ["set LABEL_STUDIO_API_KEY"]),
        ({PROJECT: (404, {})}, "label studio project", ["404", "-> give --project"]),
        (config(BRUSH.replace(' smart="true"', "")), CONFIG, ["no smart tool", '<KeyPointLabels name="click"']),
        (config(BRUSH.replace("BrushLabels", "EllipseLabels")), CONFIG, ["nothing to answer with", "<BrushLabels"]),
        (config(BRUSH.replace("<Image ", "<Video ")), CONFIG, ["no <Image", "Labeling Interface"]),
        (
            config(BRUSH.replace('"image"><Label value="Cat"/>', '"image">')),
            CONFIG,
            ["with: Cat", "same labels"],
        ),
        (config(BRUSH.replace('"brush" toName="image"', '"brush"')), CONFIG, ["has no toName", 'add toName="image"']),
        (config(REPEATED.replace("BrushLabels", "EllipseLabels")), CONFIG, ["nothing to answer with", "<BrushLabels"]),
        (config(REPEATED.replace(' smart="true"', "")), CONFIG, ["no smart tool", '<KeyPointLabels name="click"']),
        (
            config(BY_TASK.replace("KeyPointLabels", "Choices")),
            CONFIG,
            ["no smart tool", '<KeyPointLabels name="click"'],
        ),
        (config("<View><Image"), CONFIG, ["not XML", "Labeling Interface"]),
        (config(""), CONFIG, ["not XML", "Labeling Interface"]),
        ({BACKENDS: (200, [])}, LINK, ["no model is connected", "Connect Model"]),
        ({BACKENDS: (200, [backend(state="DI", readable_state="Disconnected")])}, LINK, ["Disconnected", "/health"]),
        ({BACKENDS: (200, [backend(state="ER", error_message="no\nroute")])}, LINK, ["no route", "start the backend"]),
        ({BACKENDS: (200, [backend(is_interactive=False)])}, INTERACTIVE, ["off", "-> Settings, Model", "switch on"]),
        ({BACKENDS: (200, [backend(model_version="sam"), backend(is_interactive=False)])}, INTERACTIVE, ["off"]),
    ],
)
def test_a_fault_is_found_in_its_line_alone(doctor, studio, monkeypatch, faults, line, texts):
    if ANYBODY in faults:
        studio.tokens = None
    plant(faults, studio, monkeypatch)
    report = doctor("--project", "7")
    report.fails_in(line, *texts)
    if line in LINES:
        assert {report.state(name) for name in (*LINES[LINES.index(line) + 1 :], *PROJECT_LINES)} == {"skipped"}


def test_a_project_without_an_address_is_told(doctor, monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_URL")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    doctor("--project", "7").fails_in("label studio", "LABEL_STUDIO_URL")


@pytest.mark.parametrize(
    ("greeting", "text"),
    [
        (b"", "within 0.3 s"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "SSH-2.0"),
    ],
)
def test_a_server_that_never_answers_or_is_no_http_takes_seconds_and_one_line(doctor, monkeypatch, greeting, text):
    monkeypatch.setattr("icmformer.applications.ls_backend.doctor.NETWORK_SECONDS", 0.3)
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
