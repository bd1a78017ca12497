"""The function for Kubernetes: that for Docker, and what Kubernetes adds, in fields that Nuclio knows."""

import copy

import kubernetes_validate
import pytest

from icmformer.settings import Settings
from tests.conftest import ROOT
from tests.deploy.manifests import megabytes, read

NAME = "nuclio/function-k8s-gpu.yaml"
ADDED = {
    "minReplicas",
    "maxReplicas",
    "targetCPU",
    "deploymentStrategy",
    "tolerations",
    "readinessTimeoutSeconds",
}
"""Fields of Nuclio's function spec that have a meaning on Kubernetes alone (its function-configuration reference)."""


@pytest.fixture
def function():
    return read(NAME)


def test_it_is_the_docker_function_and_what_kubernetes_adds(function):
    docker = read(ROOT / "serverless/function-gpu.yaml")
    rest = copy.deepcopy(function)
    for name in ADDED:
        del rest["spec"][name]
    assert rest["spec"]["triggers"]["http"]["attributes"].pop("serviceType") == "ClusterIP"
    resources = rest["spec"]["resources"]
    del resources["requests"], resources["limits"]["cpu"], resources["limits"]["memory"]
    del docker["spec"]["platform"]  # Docker's restart policy and mounts
    assert rest == docker


def test_what_is_kubernetes_own_fits_its_schema(function):
    spec = function["spec"]
    labels = {"app": "x"}
    container = {"name": "x", "image": "x", "env": spec["env"], "resources": spec["resources"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": function["metadata"]["name"], "annotations": function["metadata"]["annotations"]},
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": spec["deploymentStrategy"],
            "template": {
                "metadata": {"labels": labels},
                "spec": {"tolerations": spec["tolerations"], "containers": [container]},
            },
        },
    }
    kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_replicas_and_resources_make_sense(function):
    spec = function["spec"]
    assert 1 <= spec["minReplicas"] < spec["maxReplicas"]
    assert 0 < spec["targetCPU"] < 100
    assert spec["deploymentStrategy"]["rollingUpdate"]["maxSurge"] == 0
    requests, limits = spec["resources"]["requests"], spec["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1
    assert megabytes(requests["memory"]) <= megabytes(limits["memory"])
    assert int(requests["cpu"]) <= int(limits["cpu"])
    settings = Settings.from_environment({entry["name"]: entry["value"] for entry in spec["env"]})
    assert settings.device == "cuda"
    assert spec["readinessTimeoutSeconds"] > 60  # Nuclio's default is short for an image of several GB
