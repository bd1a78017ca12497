"""The cluster examples: what they call exists, with options that the command knows."""

import re
import subprocess

import pytest
import yaml

import icmformer
from tests.conftest import ROOT
from training.train import main

CLUSTER = ROOT / "training" / "cluster"


def known_options(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_the_slurm_script_is_a_script_and_its_options_are_known(capsys):
    path = CLUSTER / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    text = path.read_text()
    after = text[text.index("-m training.train") : text.index("training=$!")]
    assert set(re.findall(r" (--[a-z-]+)", after)) <= known_options(capsys)
    config = re.search(r"\$\{1:-(\S+)\}", text)[1]
    assert (ROOT / config).is_file()


def test_the_kubernetes_job_runs_the_image_with_options_that_are_known(capsys):
    job = yaml.safe_load((CLUSTER / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert worker["replicas"] == job["spec"]["elasticPolicy"]["maxReplicas"]
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"  # the operator looks for this one
    assert container["image"] == f"icmformer:{icmformer.__version__}-gpu-train"
    command = container["command"]
    after = command[command.index("icmformer.applications.training.train") + 1 :]
    assert {option.split("=")[0] for option in after if option.startswith("--")} <= known_options(capsys)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
