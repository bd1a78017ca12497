"""What `icmformer doctor` finds at CVAT: against a server that answers as a real one does."""

import pytest

from tests.doctor import Doctor, Server, forget_environment, nobody

TOKEN = "cvat-personal-access-token"
ABOUT, SELF, FUNCTIONS = "/api/server/about", "/api/users/self", "/api/lambda/functions"
LINES = ["cvat settings", "cvat", "cvat version", "cvat token", "cvat function"]
OURS = {"id": "icmformer", "kind": "interactor", "name": "iCMFormer", "version": 2, "min_pos_points": 0}
OTHERS = [
    {"id": "pth-saic-vul-hrnet", "kind": "interactor", "name": "HRNET", "version": 2},
    {"id": "icmformer-detector", "kind": "detector", "name": "iCMFormer boxes", "version": 1},
]


@pytest.fixture
def cvat():
    server = Server(
        {
            ABOUT: (200, {"name": "Computer Vision Annotation Tool", "version": "2.73.0"}),
            SELF: (200, {"id": 1, "username": "eve"}),
            FUNCTIONS: (200, [*OTHERS, OURS]),
        },
        tokens=(f"Bearer {TOKEN}",),
        public=(ABOUT,),
    )
    yield server
    server.end()


@pytest.fixture
def doctor(capsys, monkeypatch, cvat):
    """Runs the command with CVAT's address and token in the environment; no report may hold a token."""
    forget_environment(monkeypatch)
    monkeypatch.setenv("CVAT_HOST", cvat.url)
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", TOKEN)
    run = Doctor(capsys)

    def checked(*words):
        report = run(*words)
        assert TOKEN not in report.output
        assert "wrong-token" not in report.output
        return report

    return checked


def test_a_healthy_cvat_is_well_in_every_line(doctor):
    report = doctor()
    assert report.code == 0
    assert {report.state(name) for name in (*LINES, "clock")} == {"ok"}
    assert "2.73.0" in report.told("cvat")


def test_the_option_wins_and_without_a_token_the_rest_is_skipped(doctor, cvat, monkeypatch):
    monkeypatch.setenv("CVAT_HOST", nobody())
    monkeypatch.delenv("CVAT_ACCESS_TOKEN")
    report = doctor("--cvat", f"{cvat.url}/")
    assert report.code == 0
    assert report.state("cvat token") == report.state("cvat function") == "skipped"
    assert "CVAT_ACCESS_TOKEN" in report.checks["cvat token"]["advice"]
    assert [asked for asked, _ in cvat.asked] == [ABOUT]


def test_nothing_at_the_address_is_found(doctor):
    report = doctor("--cvat", nobody())
    assert report.failed == ["cvat"]
    assert "nothing listens there" in report.told("cvat")
    assert "--cvat" in report.checks["cvat"]["advice"]
    assert {report.state(name) for name in LINES[2:]} == {"skipped"}


@pytest.mark.parametrize(
    "address", ["http://eve:wrong-token@localhost:1", "http://a b", "ftp://cvat", "http://c:99999"]
)
def test_an_address_that_is_none_is_told(doctor, address):
    report = doctor("--cvat", address)
    assert report.failed == ["cvat"]
    assert "address" in report.told("cvat")


def test_a_name_without_scheme_is_taken_for_https(doctor, cvat):
    report = doctor("--cvat", cvat.url.removeprefix("http://"))
    assert report.failed == ["cvat"]
    assert "does not speak https" in report.told("cvat")
    assert "http://" in report.checks["cvat"]["advice"]
    assert cvat.asked == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [((404, b"404 page not found"), "is not CVAT"), ((200, {"name": "x"}), "is not CVAT"), ((502, b""), "down")],
)
def test_what_is_not_cvat_at_that_address_is_told(doctor, cvat, answer, text):
    cvat.routes[ABOUT] = answer
    report = doctor()
    assert report.failed == ["cvat"]
    assert text in report.told("cvat")


@pytest.mark.parametrize(
    ("version", "reply", "state", "remedy"),
    [
        ("2.73.0", "shapes", "ok", ""),
        ("2.60.0", "shapes", "ok", ""),
        ("2.59.1", "shapes", "failed", "ICMFORMER_CVAT_REPLY=mask"),
        ("2.59.1", "mask", "ok", ""),
        ("2.3.0", "mask", "ok", ""),
        ("2.2.9", "mask", "failed", "update CVAT"),
        ("1.7.0", "shapes", "failed", "update CVAT"),
        ("2.73.0", "mask", "warning", "ICMFORMER_CVAT_REPLY=shapes"),
        ("develop", "shapes", "warning", "2.60"),
    ],
)
def test_a_version_and_a_form_of_replies_that_do_not_go_together_are_found(
    doctor, cvat, monkeypatch, version, reply, state, remedy
):
    cvat.routes[ABOUT] = (200, {"name": "CVAT", "version": version})
    monkeypatch.setenv("ICMFORMER_CVAT_REPLY", reply)
    report = doctor()
    assert report.failed == (["cvat version"] if state == "failed" else [])
    assert report.state("cvat version") == state
    assert remedy in report.checks["cvat version"]["advice"]


def test_a_wrong_setting_of_the_function_is_one_line(doctor, monkeypatch):
    monkeypatch.setenv("ICMFORMER_CVAT_REPLY", "polygons")
    report = doctor()
    assert report.failed == ["cvat settings"]
    assert "ICMFORMER_CVAT_REPLY" in report.told("cvat settings")
    assert report.state("cvat version") == "skipped"


@pytest.mark.parametrize("token", ["wrong-token", "wrong-token\nwith a line", "wrong-token-ü"])
def test_a_wrong_token_is_found_and_not_shown(doctor, monkeypatch, token):
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", token)
    report = doctor()
    assert report.failed == ["cvat token"]
    assert "CVAT_ACCESS_TOKEN" in report.checks["cvat token"]["advice"]
    assert report.state("cvat function") == "skipped"


@pytest.mark.parametrize(
    ("answer", "text", "remedy"),
    [
        ((200, OTHERS), "HRNET", "deploy.sh"),
        ((200, []), "none", "deploy.sh"),
        ((200, [OURS | {"version": 1}]), "grey", "deploy.sh"),
        ((503, b"Serverless is off"), "Nuclio does not answer", "docker-compose.serverless.yml"),
        ((403, {}), "may not list", "token"),
    ],
)
def test_a_function_that_is_not_deployed_is_found(doctor, cvat, answer, text, remedy):
    cvat.routes[FUNCTIONS] = answer
    report = doctor()
    assert report.failed == ["cvat function"]
    assert text in report.told("cvat function")
    assert remedy in report.checks["cvat function"]["advice"]


def test_a_clock_an_hour_off_is_found_in_its_line_alone(doctor, cvat):
    cvat.clock = 3600
    report = doctor()
    assert report.failed == ["clock"]
    assert "behind that of cvat" in report.told("clock")
