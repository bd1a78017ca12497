"""What lies under deploy/ against the schemas of those who read it, and against the facts that it repeats."""

import os
import re

import kubernetes_validate
import pytest

import icmformer
from icmformer.settings import Settings
from ls_backend.__main__ import _GRACE_SECONDS
from ls_backend.app import _OPEN
from ls_backend.settings import BackendSettings
from tests.conftest import ROOT
from tests.deploy.dockerfile import Dockerfile
from tests.deploy.manifests import DEPLOY, build, megabytes, pod, pod_environment, read, unknown_to_us, variables

RELEASES = ["1.30", "1.37"]
"""The oldest and the newest Kubernetes that the manifests are held to."""
OVERLAYS = {"cpu": DEPLOY / "k8s/overlays/cpu", "gpu": DEPLOY / "k8s/overlays/gpu"}
COMPONENTS = ["servicemonitor", "queue-hpa"]
KUSTOMIZATIONS = sorted(str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("kustomization.yaml"))
PATCHES = {"k8s/components/queue-hpa/hpa.yaml", "k8s/overlays/gpu/deployment.yaml", "k8s/overlays/gpu/hpa.yaml"}
"""Parts of objects: checked as what the overlays come to."""
SERVICE_MONITOR = "k8s/components/servicemonitor/servicemonitor.yaml"
OBJECTS = sorted(f"k8s/base/{path.name}" for path in (DEPLOY / "k8s/base").glob("*.yaml"))
OBJECTS.remove("k8s/base/kustomization.yaml")
PORT = 9090


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param, build(OVERLAYS[request.param])


@pytest.fixture
def with_components(tmp_path):
    """The GPU's overlay with all components, as an overlay of a user would have it."""
    listed = [os.path.relpath(DEPLOY / "k8s/components" / name, tmp_path) for name in COMPONENTS]
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{os.path.relpath(OVERLAYS['gpu'], tmp_path)}]\ncomponents: [{', '.join(listed)}]\n"
    )
    return build(tmp_path)


def test_every_file_is_checked_by_something():
    found = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*.y*ml")}
    found = {
        name for name in found if not name.startswith("prometheus/")
    }  # test_dashboard.py has a Prometheus read them
    others = {SERVICE_MONITOR, "compose.label-studio.yml", "nuclio/function-k8s-gpu.yaml"}
    assert found == {*KUSTOMIZATIONS, *PATCHES, *OBJECTS, *others}
    for name in found:
        read(name)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_fit_kubernetes_schema(name, release):
    kubernetes_validate.validate(read(name), release, strict=True)


def test_the_schema_refuses_a_field_that_there_is_not():
    wrong = read("k8s/base/service.yaml")
    wrong["spec"]["sessionAffinty"] = "None"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


@pytest.mark.parametrize("release", RELEASES)
def test_overlays_fit_kubernetes_schema(overlay, release):
    for item in overlay[1].values():
        kubernetes_validate.validate(item, release, strict=True)


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_kustomizations_name_what_is_there(name):
    content, folder = read(name), (DEPLOY / name).parent
    known = {"apiVersion", "kind", "namespace", "resources", "images", "configMapGenerator", "patches"}
    assert set(content) <= known
    assert content["kind"] == ("Component" if "components" in name else "Kustomization")
    for resource in content.get("resources", []):
        path = folder / resource
        assert path.is_file() or (path / "kustomization.yaml").is_file()
    for patch in content.get("patches", []):
        assert str((folder / patch["path"]).relative_to(DEPLOY)) in PATCHES
    for generator in content.get("configMapGenerator", []):
        assert all((folder / env).is_file() for env in generator.get("envs", []))


def test_overlays_come_to_what_they_say(overlay):
    kind, objects = overlay
    assert set(objects) == {
        "Namespace",
        "ConfigMap",
        "Service",
        "Deployment",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
    }
    spec, container = pod(objects)
    assert container["image"] == f"icmformer:{icmformer.__version__}-{kind}"
    assert container["resources"]["limits"].get("nvidia.com/gpu") == {"cpu": None, "gpu": 1}[kind]
    assert objects["ConfigMap"]["data"].get("ICMFORMER_DEVICE") == {"cpu": None, "gpu": "cuda"}[kind]
    assert container["envFrom"] == [{"configMapRef": {"name": objects["ConfigMap"]["metadata"]["name"]}}]
    assert any(entry["key"] == "nvidia.com/gpu" for entry in spec.get("tolerations", [])) == (kind == "gpu")
    surge = objects["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert surge == {"cpu": {"maxSurge": 1, "maxUnavailable": 0}, "gpu": {"maxSurge": 0, "maxUnavailable": 1}}[kind]
    names = {item["metadata"]["namespace"] for item in objects.values() if item["kind"] != "Namespace"}
    assert names == {objects["Namespace"]["metadata"]["name"]}


def test_objects_find_each_other(overlay):
    objects = overlay[1]
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    (spread,) = pod(objects)[0]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    assert read(SERVICE_MONITOR)["spec"]["selector"]["matchLabels"].items() <= (
        objects["Service"]["metadata"]["labels"].items()
    )
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", objects["Deployment"]["metadata"]["name"])
    assert "replicas" not in objects["Deployment"]["spec"]  # each apply would undo what the autoscaler did
    bounds = objects["HorizontalPodAutoscaler"]["spec"]
    assert 2 <= bounds["minReplicas"] < bounds["maxReplicas"]


def test_pods_meet_the_restricted_standard(overlay):
    spec, container = pod(overlay[1])
    own = container["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == 1000
    assert "\nid=1000" in (ROOT / "docker/user.sh").read_text()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])
    for setting in ("hostNetwork", "hostPID", "hostIPC"):
        assert setting not in spec
    assert overlay[1]["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_ports_are_the_images_port(overlay):
    _, container = pod(overlay[1])
    (exposed,) = container["ports"]
    assert exposed == {"name": "http", "containerPort": PORT}
    (served,) = overlay[1]["Service"]["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (PORT, "http")
    assert Dockerfile.read(overlay[0]).one("EXPOSE") == str(PORT)
    for rule in overlay[1]["NetworkPolicy"]["spec"]["ingress"]:
        assert [port["port"] for port in rule["ports"]] == ["http"]


def test_probes_ask_routes_that_need_no_login(overlay):
    routes = re.findall(r'@app\.(?:get|post|route)\("([^"]+)"', (ROOT / "ls_backend/app.py").read_text())
    _, container = pod(overlay[1])
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": "/health",
        "liveness": "/health",
        "readiness": "/ready",
    }
    for probe in asked.values():
        assert probe["port"] == "http"
        assert probe["path"] in routes
        assert probe["path"] in _OPEN
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 120  # the image's own start period


def test_settings_are_read_by_our_programs(overlay):
    environment = pod_environment(overlay[1])
    assert unknown_to_us(environment) == set()
    engine, backend = Settings.from_environment(environment), BackendSettings.from_environment(environment)
    spec, container = pod(overlay[1])
    limits = container["resources"]["limits"]
    assert str(engine.threads) == limits["cpu"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    sizes = {mounts[volume["name"]]: megabytes(volume["emptyDir"]["sizeLimit"]) for volume in spec["volumes"]}
    cache = Dockerfile.read(overlay[0]).pairs("ENV")["ICMFORMER_CACHE_DIR"]
    assert set(sizes) == {cache, "/tmp"}
    assert backend.file_cache_bytes >> 20 < sizes[cache]
    assert sum(sizes.values()) <= megabytes(limits["ephemeral-storage"])
    kept = engine.image_cache_mb + engine.feature_cache_mb + engine.state_cache_mb
    assert kept < megabytes(container["resources"]["requests"]["memory"])


def test_a_pod_that_goes_answers_what_it_has(overlay):
    spec, container = pod(overlay[1])
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    graceful = BackendSettings().queue_seconds + _GRACE_SECONDS
    assert command == "sleep"
    assert spec["terminationGracePeriodSeconds"] >= int(seconds) + graceful + 5


def test_secrets_keys_match(overlay):
    example, monitor = read("k8s/base/secret.example.yaml"), read(SERVICE_MONITOR)
    references = [entry["valueFrom"]["secretKeyRef"] for entry in pod(overlay[1])[1]["env"]]
    assert {entry["name"] for entry in references} == {example["metadata"]["name"]}
    assert {entry["key"] for entry in references} == set(example["stringData"])
    assert [entry["name"] for entry in pod(overlay[1])[1]["env"]] == [entry["key"] for entry in references]
    assert not any("optional" in entry for entry in references)
    login = monitor["spec"]["endpoints"][0]["basicAuth"]
    assert login == {
        "username": {"name": example["metadata"]["name"], "key": "BASIC_AUTH_USER"},
        "password": {"name": example["metadata"]["name"], "key": "BASIC_AUTH_PASS"},
    }
    assert "secret.example.yaml" not in read("k8s/base/kustomization.yaml")["resources"]


def test_the_monitor_has_fields_of_the_operators_reference_alone():
    monitor = read(SERVICE_MONITOR)
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(monitor["spec"]) == {"jobLabel", "selector", "endpoints"}
    labels = read("k8s/base/service.yaml")["metadata"]["labels"]
    jobs = [job["job_name"] for job in read("prometheus/prometheus.yml")["scrape_configs"]]
    assert labels[monitor["spec"]["jobLabel"]] in jobs  # the name that alerts ask for
    assert set(monitor["spec"]["selector"]) == {"matchLabels"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout", "basicAuth"}
    seconds = [int(re.fullmatch(r"(\d+)s", endpoint[name])[1]) for name in ("interval", "scrapeTimeout")]
    assert seconds[1] <= seconds[0]  # Prometheus refuses more
    (port,) = read("k8s/base/service.yaml")["spec"]["ports"]
    assert endpoint["port"] == port["name"]  # of the service, not of the pod
    assert f'"{endpoint["path"]}"' in (ROOT / "ls_backend/app.py").read_text()


def test_components_fit_an_overlay(with_components):
    assert with_components["ServiceMonitor"]["metadata"]["name"] == "icmformer"
    scaler = with_components["HorizontalPodAutoscaler"]
    for release in RELEASES:
        kubernetes_validate.validate(scaler, release, strict=True)
    (metric,) = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    sources = (ROOT / "icmformer/serving/metrics.py", ROOT / "ls_backend/app.py")
    assert any(f'"{name}"' in path.read_text() for path in sources if path.exists())
    assert scaler["spec"]["maxReplicas"] == build(OVERLAYS["gpu"])["HorizontalPodAutoscaler"]["spec"]["maxReplicas"]


def test_one_version_everywhere():
    texts = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != ".gitignore"]
    found = [tag for path in texts for tag in re.findall(r"icmformer:(\d[\w.]*)-(?:cpu|gpu)\b", path.read_text())]
    tags = [image["newTag"] for kind in OVERLAYS for image in read(f"k8s/overlays/{kind}/kustomization.yaml")["images"]]
    assert len(found) > 4
    assert {*found, *(tag.rsplit("-", 1)[0] for tag in tags)} == {icmformer.__version__}
    for path in texts:
        assert ":latest" not in path.read_text(), path


def test_no_secret_is_in_the_settings():
    assert not any(re.search("KEY|PASS|TOKEN|SECRET", name) for name in variables("k8s/base/settings.env"))
