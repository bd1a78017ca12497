"""compose.label-studio.yml: the Compose Specification, and what the file promises."""

import json
import re

import pytest
import yaml
from compose_spec import PyCompose

import icmformer
from icmformer.settings import Settings
from ls_backend.settings import BackendSettings
from tests.conftest import ROOT
from tests.deploy.dockerfile import Dockerfile
from tests.deploy.manifests import DEPLOY, megabytes, read, unknown_to_us, variables

NAME = "compose.label-studio.yml"
BACKENDS = {"backend": "cpu", "backend-gpu": "gpu"}
REFERENCE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
PASSWORDS = {"LABEL_STUDIO_PASSWORD", "LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS"}


@pytest.fixture
def filled_in():
    """The file's text as Compose reads it, with .env.example filled in."""
    given = {name: value or f"stand-in-{name.lower()}" for name, value in variables(".env.example").items()}

    def value(found):
        name, kind, text = found.groups()
        assert given.get(name) or kind != "?", f"{name} is asked for, and not in .env.example"
        return given.get(name) or (text if kind == "-" else "")

    return REFERENCE.sub(value, (DEPLOY / NAME).read_text())


@pytest.fixture
def services(filled_in):
    return yaml.safe_load(filled_in)["services"]


def test_it_fits_the_compose_specification(filled_in):
    read(NAME)  # no key twice
    assert set(PyCompose.from_json(json.dumps(yaml.safe_load(filled_in))).to_spec().services) == {
        "label-studio",
        *BACKENDS,
        "balancer",
        "database",
    }


@pytest.mark.parametrize(("right", "wrong"), [("read_only:", "readonly:"), ("reservations:", "reservation:")])
def test_a_field_that_there_is_not_is_refused(filled_in, right, wrong):
    content = json.dumps(yaml.safe_load(filled_in.replace(right, wrong)))
    with pytest.raises(ValueError, match=wrong[:-1]):
        PyCompose.from_json(content)


def test_secrets_come_from_the_env_file_alone():
    text = (DEPLOY / NAME).read_text()
    for name in PASSWORDS:
        assert variables(".env.example")[name] == ""
        assert re.findall(rf"\$\{{{name}(..)", text) != []
        assert set(re.findall(rf"\$\{{{name}(..)", text)) == {":?"}  # none starts without
    assert ".env" in (DEPLOY / ".gitignore").read_text().splitlines()
    used = {found[0] for found in REFERENCE.findall(text)}
    assert set(variables(".env.example")) == used - {"TORCH_INDEX_URL"}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_has_no_right_that_it_does_not_need(services, name):
    backend = services[name]
    assert backend["read_only"] is True
    assert backend["cap_drop"] == ["ALL"]
    assert backend["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in backend["tmpfs"]] == ["/tmp"]
    cache = Dockerfile.read(BACKENDS[name]).pairs("ENV")["ICMFORMER_CACHE_DIR"]
    training = "/var/lib/icmformer"  # as docker/user.sh makes it
    assert backend["volumes"] == [f"backend-cache:{cache}", f"backend-training:{training}"]
    assert f'$root{training}"' in (ROOT / "docker/user.sh").read_text()
    assert "ports" not in backend  # Label Studio reaches it inside
    assert "privileged" not in backend
    assert "user" not in backend  # the image's, which is not root


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_is_what_its_profile_says(services, name):
    backend, kind = services[name], BACKENDS[name]
    assert backend["profiles"] == [kind]
    assert backend["image"] == f"icmformer:{icmformer.__version__}-{kind}"
    assert backend["build"]["dockerfile"] == f"Dockerfile.{kind}"
    assert (DEPLOY / backend["build"]["context"]).resolve() == ROOT
    assert backend["networks"] == {"default": {"aliases": ["backend"]}}
    assert backend["depends_on"] == {"label-studio": {"condition": "service_healthy"}}
    assert backend["restart"] == "unless-stopped"
    assert "healthcheck" not in backend  # the image's own
    assert Dockerfile.read(kind).health()
    resources = backend["deploy"]["resources"]
    devices = resources.get("reservations", {}).get("devices", [])
    assert devices == ([{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}] if kind == "gpu" else [])


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backends_settings_can_be_used(services, name):
    environment, limits = services[name]["environment"], services[name]["deploy"]["resources"]["limits"]
    assert unknown_to_us(environment) == set()
    own, engine = BackendSettings.from_environment(environment), Settings.from_environment(environment)
    assert own.url == "http://label-studio:8080"
    assert own.user
    assert own.password
    assert engine.device == {"backend": "auto", "backend-gpu": "cuda"}[name]
    assert str(engine.threads) == limits["cpus"] or engine.device == "cuda"
    kept = engine.image_cache_mb + engine.feature_cache_mb + engine.state_cache_mb
    assert 2 * kept < megabytes(limits["memory"])
    grace = int(services[name]["stop_grace_period"].removesuffix("s"))
    assert grace >= own.queue_seconds + 10


def test_label_studio_is_the_one_we_test_and_admits_the_backend(services):
    studio = services["label-studio"]
    pins = (ROOT / "constraints/label-studio.txt").read_text().splitlines()
    version = next(pin.split("==")[1] for pin in pins if pin.startswith("label-studio=="))
    assert studio["image"] == f"heartexlabs/label-studio:{version}"
    assert studio["environment"]["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false" in (ROOT / "docs/label_studio.md").read_text()
    demo = (ROOT / "demo/studio.py").read_text()  # whose Label Studio the end-to-end tests drive
    others = [name for name in studio["environment"] if f'"{name}"' not in demo]
    assert others == ["DJANGO_DB", *(f"POSTGRE_{name}" for name in ("HOST", "PORT", "NAME", "USER", "PASSWORD"))]
    assert studio["environment"]["DJANGO_DB"] == "sqlite"  # PostgreSQL is a profile
    database = services["database"]["environment"]
    for name, of_studio in (("DB", "NAME"), ("USER", "USER"), ("PASSWORD", "PASSWORD")):
        assert database[f"POSTGRES_{name}"] == studio["environment"][f"POSTGRE_{of_studio}"]
    assert (
        studio["environment"]["LABEL_STUDIO_USER_TOKEN"] == services["backend"]["environment"]["LABEL_STUDIO_API_KEY"]
    )
    assert "profiles" not in studio
    assert studio["ports"] == ["8080:8080"]
    assert studio["healthcheck"]["test"][0] == "CMD"


def test_the_balancer_stands_before_all_backends(services):
    balancer = services["balancer"]
    assert balancer["profiles"] == ["replicas"]
    assert re.fullmatch(r"nginx:\d+\.\d+\.\d+-alpine", balancer["image"])
    assert tuple(int(n) for n in re.findall(r"\d+", balancer["image"])) >= (1, 27, 3)  # `resolve` in an upstream
    assert balancer["command"][:3] == ["nginx", "-c", "/etc/nginx/icmformer/nginx.conf"]
    assert balancer["volumes"] == ["./nginx:/etc/nginx/icmformer:ro"]
    assert (DEPLOY / "nginx/nginx.conf").is_file()
    assert balancer["read_only"] is True
    assert balancer["user"] != "0"
    assert set(balancer["depends_on"]) == set(BACKENDS)
    for backend in balancer["depends_on"].values():  # one of them is not started
        assert backend == {"condition": "service_healthy", "required": False}


def test_all_have_limits_and_come_back(services, filled_in):
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert megabytes(service["deploy"]["resources"]["limits"]["memory"]) >= 512, name
        assert "healthcheck" in service or name in BACKENDS
    named = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service["volumes"]
        if not volume.startswith(".")
    }
    assert set(yaml.safe_load(filled_in)["volumes"]) == named
