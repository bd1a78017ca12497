"""`icmformer doctor`: every planted fault is found in its own line, and nowhere else."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icmformer.cli.main import main
from icmformer.diagnosis import Check, examine, failed, installation, machine, ok
from tests.conftest import ROOT, TINY, TRAINED
from tests.doctor import Doctor, forget_environment

ASSETS = ROOT / "icmformer" / "assets"
MB = 1 << 20


@pytest.fixture
def doctor(capsys, monkeypatch):
    forget_environment(monkeypatch)
    return Doctor(capsys)


def command(*words, **environment):
    """The real command, in an environment of its own."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "ICMFORMER_CACHE_DIR")
    }
    return subprocess.run(
        [sys.executable, "-m", "icmformer", "doctor", *words],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def distribution(folder, name, version="1.0", entry_points=""):
    """An installed package's description."""
    there = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    there.mkdir(parents=True)
    (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (there / "entry_points.txt").write_text(entry_points)


def test_a_healthy_installation_is_told_in_lines_and_status_zero():
    done = command("--weights", TRAINED, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    lines = done.stdout.splitlines()
    for name in ("python", "packages", "opencv", "torch", "settings", "cache folder", "device", "openvino"):
        assert any(line.startswith(f"{name}: ") for line in lines), name
    assert any(line.startswith("weights: starter, sha256 ") for line in lines)
    assert any(line.startswith("segment: starter, fast, openvino: a disk found with IoU 0.9") for line in lines)
    assert any(line.startswith("label studio: skipped: no address given") for line in lines)
    assert any(line.startswith("cvat: skipped: no address given") for line in lines)
    assert any(line.startswith("clock: skipped: unchecked: no server") for line in lines)
    assert lines[-1].startswith("all is well")


def test_two_faults_of_an_environment_are_two_lines_and_status_one(tmp_path):
    file = tmp_path / "cache"
    file.write_text("")
    done = command("--weights", "nowhere", "--device", "cpu", ICMFORMER_CACHE_DIR=str(file))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if "FAILED: " in line] == ["cache folder", "weights"]
    assert lines[-1] == "2 failed: cache folder, weights"
    for place, line in enumerate(lines):
        assert "FAILED: " not in line or lines[place + 1].startswith("  -> ")


def test_json_holds_every_check_with_facts(doctor):
    report = doctor()
    assert report.code == 0
    assert report.checks["settings"]["facts"]["profile"] == "fast"
    assert report.checks["device"]["facts"]["device"] == "cpu"
    assert report.checks["segment"]["facts"]["runtime"] == "torch"
    assert report.state("weights") == "warning"
    assert "untrained" in report.told("weights")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ICMFORMER_MAX_PIXELS", "lots"),
        ("ICMFORMER_BATCH", "0"),
        ("ICMFORMER_PROFILE", "fastest"),
        ("ICMFORMER_RUNTIME", "tensorrt"),
    ],
)
def test_a_wrong_setting_is_one_failed_line(doctor, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    report = doctor()
    assert report.failed == ["settings"]
    assert value in report.told("settings")
    assert "set" in report.checks["settings"]["advice"]
    assert report.state("segment") == report.state("device") == "skipped"


def test_a_misspelt_setting_is_told_with_what_was_meant(doctor, monkeypatch):
    for name in ("ICMFORMER_QUEUE", "ICMFORMER_CVAT_FILL_HOLES"):  # the servers' own
        monkeypatch.setenv(name, "7")
    assert doctor().state("variables") == "ok"
    monkeypatch.setenv("ICMFORMER_WEIGHT", "mine")
    monkeypatch.setenv("icmformer_profile", "exact")
    for name in ("ICMFORMER_NONSENSE", "ICMFORMER_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    report = doctor()
    assert report.state("variables") == "warning"
    told = report.told("variables")
    assert "ICMFORMER_WEIGHT (meant ICMFORMER_WEIGHTS?)" in told
    assert "icmformer_profile (meant ICMFORMER_PROFILE?)" in told
    assert "ICMFORMER_NONSENSE, ICMFORMER_TIMEOUT, ICMFORMER_WEIGHT (" in told  # nothing is guessed for two of them
    assert "QUEUE" not in told


def test_unknown_weights_fail_in_their_line(doctor):
    report = doctor(weights="nowhere")
    assert report.failed == ["weights"]
    assert "no weights 'nowhere'" in report.told("weights")
    assert "ICMFORMER_WEIGHTS" in report.checks["weights"]["advice"]
    assert report.state("segment") == "skipped"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_weights_with_a_flipped_byte_are_found(doctor, tmp_path, file):
    folder = tmp_path / "copy"
    shutil.copytree(ASSETS / "starter", folder)
    assert doctor(weights=str(folder)).failed == []
    content = bytearray((folder / file).read_bytes())
    content[-20] ^= 1
    (folder / file).write_bytes(content)
    report = doctor(weights=str(folder))
    assert report.failed == ["weights"]
    assert file in report.told("weights")
    assert "icmformer weights verify" in report.checks["weights"]["advice"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_fails_in_the_devices_line(doctor):
    report = doctor(device="cuda")
    assert report.failed == ["device"]
    assert "ICMFORMER_DEVICE=cpu" in report.checks["device"]["advice"]
    assert report.state("gpu") == report.state("segment") == "skipped"
    assert doctor(device="tpu9").failed == ["device"]


def test_a_cuda_build_without_a_usable_driver_is_told(doctor, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(installation, "nvidia_driver", lambda: None)
    monkeypatch.setattr(machine, "nvidia_driver", lambda: "470.1")
    assert "--gpus all" in doctor().told("torch")
    monkeypatch.setattr(installation, "nvidia_driver", lambda: "470.1")
    report = doctor()
    assert (report.code, report.state("torch")) == (0, "warning")
    assert "470.1" in report.told("torch")
    report = doctor(device="cuda:0")
    assert report.failed == ["device"]
    assert "update NVIDIA's driver" in report.told("device")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" in doctor(device="cuda").told("device")


def test_a_gpu_beside_a_build_for_cpus_is_a_warning(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(installation, "nvidia_driver", lambda: "580.1")
    outcome = installation.torch_build()
    assert outcome.state == "warning"
    assert "TORCH_INDEX_URL" in outcome.advice


class Cuda:
    """`torch.cuda` of a GPU."""

    def __init__(self, capability=(9, 0), kinds=("sm_80", "sm_90"), free=70_000, error=None):
        self._capability, self._kinds, self._free, self._error = capability, kinds, free, error

    def get_device_capability(self, name):
        if self._error:
            raise RuntimeError(self._error)
        return self._capability

    def get_arch_list(self):
        return list(self._kinds)

    def mem_get_info(self, name):
        return self._free * MB, 80_000 * MB


@pytest.mark.parametrize(
    ("cuda", "state", "word"),
    [
        (Cuda(), "ok", "9.0"),
        (Cuda((8, 6)), "ok", "8.6"),  # code for 8.0 runs
        (Cuda((6, 1)), "failed", "sm_80"),
        (Cuda((12, 0)), "failed", "torch build for this GPU"),
        (Cuda((12, 0), ("sm_90", "compute_90")), "ok", "12.0"),
        (Cuda(free=300), "failed", "nvidia-smi"),
        (Cuda(free=2000), "warning", "not much"),
        (Cuda(error="CUDA error: no luck\nmore"), "failed", "no luck"),
    ],
)
def test_what_a_gpu_says_is_judged(cuda, state, word):
    outcome = machine.gpu("cuda:0", cuda)
    assert outcome.state == state
    assert word in f"{outcome.text} {outcome.advice}"


def test_a_file_in_the_cache_folders_place_is_found(doctor, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/icmformer"):
        monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / place))
        report = doctor()
        assert report.failed == ["cache folder"]
        assert "ICMFORMER_CACHE_DIR" in report.checks["cache folder"]["advice"]


def test_a_cache_folder_that_cannot_be_written_or_is_full_is_found(monkeypatch, tmp_path):
    assert machine.cache_folder(tmp_path / "new" / "er").state == "ok"
    assert list(tmp_path.iterdir()) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage._replace(free=50 * MB))
    assert machine.cache_folder(tmp_path).state == "failed"
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage._replace(free=500 * MB))
    assert machine.cache_folder(tmp_path).state == "warning"

    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refused)
    outcome = machine.cache_folder(tmp_path)
    assert outcome.state == "failed"
    assert "Permission denied" in outcome.text


def system(root, available=None, group="0::/\n", **limits):
    """A root folder with what the kernel says of memory, in MB."""
    (root / "proc" / "self").mkdir(parents=True)
    if available is not None:
        (root / "proc" / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:  {available * 1024} kB\n")
    (root / "proc" / "self" / "cgroup").write_text(group)
    for path, text in limits.items():
        file = root / "sys" / "fs" / "cgroup" / path.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_too_little_memory_fails_and_little_warns(doctor, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", system(tmp_path, available=200))
    report = doctor()
    assert report.failed == ["memory"]
    assert "smaller weights" in report.checks["memory"]["advice"]
    assert machine.memory(10 * MB, 0, tmp_path).facts["least_mb"] == 530
    (tmp_path / "proc" / "meminfo").write_text(f"MemAvailable: {600 * 1024} kB\n")
    assert machine.memory(10 * MB, 300 * MB).state == "warning"
    assert machine.memory(10 * MB, 50 * MB).state == "ok"


def test_memory_that_this_process_holds_counts_as_free(tmp_path):
    system(tmp_path, available=300)
    assert machine.memory(0, 0, tmp_path).state == "failed"
    (tmp_path / "proc" / "self" / "status").write_text(f"VmRSS:\t {400 * 1024} kB\n")
    assert machine.memory(0, 0, tmp_path).state == "ok"


def test_limits_of_control_groups_of_both_kinds_count(tmp_path):
    second = {"pods__memory_DOT_max": str(700 * MB), "pods__memory_DOT_current": str(600 * MB)}
    inner = {"pods__a__memory_DOT_max": "max", "pods__a__memory_DOT_current": str(600 * MB)}
    outcome = machine.memory(0, 0, system(tmp_path / "2", 9000, "0::/pods/a\n", **second, **inner))
    assert outcome.state == "failed"
    assert "100 MB free in its control group" in outcome.text
    assert "--memory" in outcome.advice
    (tmp_path / "2/sys/fs/cgroup/pods/memory.stat").write_text(f"anon 5\ninactive_file {550 * MB}\n")
    assert machine.memory(0, 0, tmp_path / "2").state == "ok"
    first = {"memory__memory_DOT_limit_in_bytes": str(300 * MB), "memory__memory_DOT_usage_in_bytes": str(MB)}
    outcome = machine.memory(0, 0, system(tmp_path / "1", 9000, "7:cpu,memory:/gone\n", **first))
    assert "299 MB free in its control group" in outcome.text
    none = {"memory__memory_DOT_limit_in_bytes": str(2**63 - 4096), "memory__memory_DOT_usage_in_bytes": "5"}
    assert machine.memory(0, 0, system(tmp_path / "0", 9000, "7:memory:/\n", **none)).state == "ok"
    assert machine.memory(0, 0, tmp_path / "nothing").state == "skipped"


def test_openvino_asked_for_and_not_installed_is_found(doctor, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "openvino" else find(name, package)
    )
    monkeypatch.setenv("ICMFORMER_RUNTIME", "openvino")
    report = doctor()
    assert report.failed == ["openvino"]
    assert "icmformer[cpu]" in report.checks["openvino"]["advice"]
    monkeypatch.setenv("ICMFORMER_RUNTIME", "auto")
    report = doctor()
    assert (report.failed, report.state("openvino")) == ([], "warning")


def test_an_openvino_that_does_not_load_fails_in_its_line_alone(tmp_path):
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12: cannot open')")
    done = command("--weights", TINY, "--device", "cpu", "--json", PYTHONPATH=str(tmp_path))
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert [name for name, check in checks.items() if check["state"] == "failed"] == ["openvino"]
    assert "libtbb" in checks["openvino"]["text"]
    assert "ICMFORMER_RUNTIME=torch" in checks["openvino"]["advice"]
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_an_old_openvino_and_a_device_it_does_not_run_on(monkeypatch):
    monkeypatch.setattr(installation, "version", lambda name: "2024.6.0")
    outcome = installation.openvino("auto", "cpu")
    assert outcome.state == "warning"
    assert "2025.0" in outcome.text
    assert installation.openvino("openvino", "cuda").state == "failed"
    assert installation.openvino("auto", "cuda").state == "skipped"


def test_two_packages_of_opencv_at_once_are_found(doctor, monkeypatch, tmp_path):
    distribution(tmp_path, "opencv-python", "4.9.0")
    monkeypatch.syspath_prepend(tmp_path)
    report = doctor()
    assert report.failed == ["opencv"]
    assert "opencv-python-headless and opencv-python" in report.told("opencv")
    assert report.checks["opencv"]["advice"].startswith("pip uninstall -y ")


def test_a_package_that_is_broken_or_old_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    outcome = installation.packages()
    assert outcome.state == "failed"
    assert "safetensors" in outcome.text
    monkeypatch.delitem(sys.modules, "safetensors")
    monkeypatch.setattr(installation, "version", lambda name: "1.9")
    outcome = installation.packages()
    assert outcome.state == "warning"
    assert "numpy 1.9 is older than 2.0" in outcome.text
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(installation, "installed", lambda name: "5" if name == "opencv-python" else None)
    assert "opencv-python-headless" in installation.opencv().advice


def test_an_old_python_is_refused():
    assert installation.python((3, 10, 4)).state == "failed"
    assert installation.python((3, 14, 0)).state == "ok"


@pytest.mark.parametrize(
    ("entry", "text"),
    [("missing.module:checks", "ModuleNotFoundError"), ("json:dumps", "TypeError"), ("json:nothing", "AttributeError")],
)
def test_a_broken_plug_in_is_a_line_of_its_own(doctor, monkeypatch, tmp_path, entry, text):
    distribution(tmp_path, "plug-in", entry_points=f"[icmformer.doctor]\nplug_in = {entry}\n")
    monkeypatch.syspath_prepend(tmp_path)
    report = doctor()
    assert report.failed == ["plug in"]
    assert text in report.told("plug in")


def test_plug_ins_that_are_not_installed_fail_only_where_asked_for(doctor, monkeypatch):
    monkeypatch.setattr("icmformer.cli.doctor.GROUP", "none.such")
    report = doctor()
    assert report.failed == []
    assert "not installed" in report.told("cvat")
    assert doctor("--cvat", "http://localhost:1").failed == ["cvat"]
    assert doctor("--project", "3").failed == ["label studio"]


def test_a_check_that_breaks_or_hangs_ends_no_run_and_shows_no_secret():
    def broken():
        raise KeyError("hush-hush\nand more")

    def slow():
        time_is_over.wait(5)
        return ok("late")

    import threading

    time_is_over = threading.Event()
    outcomes = examine(
        [
            Check("broken", broken, secrets=("hush-hush", "")),
            Check("slow", slow, seconds=0.05),
            Check("told", lambda: failed("the hush-hush\x1b[2J", "try hush-hush", quoted="hush-hush"), ("absent",)),
            Check("said", lambda: failed("the hush-hush\x1b[2J", "hush-hush", q="hush-hush"), secrets=("hush-hush",)),
            Check("after", lambda: ok("well")),
        ]
    )
    time_is_over.set()
    assert [outcome.state for outcome in outcomes.values()] == ["failed", "failed", "skipped", "failed", "ok"]
    assert "KeyError" in outcomes["broken"].text
    assert "no answer within 0.05 s" in outcomes["slow"].text
    assert "hush" not in repr(outcomes)
    assert "\x1b" not in outcomes["said"].text


def test_arguments_that_make_no_sense_are_usage_errors(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--project", "mine"])
    assert stop.value.code == 2
    assert "--project" in capsys.readouterr().err


def test_an_unwritable_home_is_no_traceback(doctor, monkeypatch):
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(Path("/proc/nowhere")))
    assert doctor().failed == ["cache folder"]


def test_a_click_log_that_cannot_be_written(doctor, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "clicks.jsonl", tmp_path):
        monkeypatch.setenv("ICMFORMER_CLICK_LOG", str(path))
        report = doctor()
        assert report.failed == ["settings"]
        assert report.told("settings").startswith("ICMFORMER_CLICK_LOG")
    monkeypatch.setenv("ICMFORMER_CLICK_LOG", str(tmp_path / "new" / "log.jsonl"))
    assert doctor().failed == []
    assert not (tmp_path / "new").exists()
