"""`icmformer doctor`: every planted fault is found in its own line, and nowhere else."""

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from icmformer.cli.doctor import TOOLS
from icmformer.diagnosis import installation, machine
from icmformer.diagnosis.report import Report, failed, ok
from tests.conftest import ROOT, TINY, TRAINED
from tests.doctor import Doctor, forget_environment

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
    done = subprocess.run(
        [sys.executable, "-m", "icmformer", "doctor", *words],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_a_healthy_installation_is_well_in_every_line():
    done = command("--weights", TRAINED, "--device", "cpu", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    expected = dict.fromkeys(("python", "packages", "opencv", "settings", "cache folder", "device", "openvino"), "ok")
    expected |= dict.fromkeys(("weights", "segment", "variables", "label studio settings", "cvat settings"), "ok")
    expected |= dict.fromkeys(("gpu", "label studio", "cvat", "clock"), "skipped")
    assert expected.items() <= {name: check["state"] for name, check in checks.items()}.items()
    assert done.returncode == 0
    assert checks["settings"]["facts"]["profile"] == "fast"
    assert checks["device"]["facts"]["device"] == "cpu"
    assert checks["segment"]["facts"]["iou"] > 0.9
    assert checks["weights"]["text"].startswith("starter, sha256 ")
    assert {checks[name]["text"] for name in ("label studio", "cvat")} == {"no address given"}


def test_two_faults_of_an_environment_are_two_lines_and_status_one(tmp_path):
    (tmp_path / "file").write_text("")
    done = command("--weights", "nowhere", "--device", "cpu", ICMFORMER_CACHE_DIR=str(tmp_path / "file"))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "settings: weights=nowhere, weights_path=, " in done.stdout
    assert "cvat: skipped: no address given" in lines
    assert [line.split(":")[0] for line in lines if "FAILED: " in line] == ["cache folder", "weights"]
    assert lines[-1] == "2 failed: cache folder, weights"
    for line, after in itertools.pairwise(lines):
        assert "FAILED: " not in line or after.startswith("  -> ")


@pytest.mark.parametrize(
    ("name", "value", "line", "texts"),
    [
        ("MAX_PIXELS", "lots", "settings", ("lots", "docs/settings.md")),
        ("BATCH", "0", "settings", ("between 1 and 64", "docs/settings.md")),
        ("PROFILE", "fastest", "settings", ("fastest", "docs/settings.md")),
        ("RUNTIME", "tensorrt", "settings", ("tensorrt", "set it to")),
        ("CLICK_LOG", "FILE/clicks.jsonl", "settings", ("ICMFORMER_CLICK_LOG: ", "a folder that the server may write")),
        ("CLICK_LOG", "FILE/..", "settings", ("ICMFORMER_CLICK_LOG: ", "name a file")),
        ("CACHE_DIR", "FILE", "cache folder", ("is a file", "ICMFORMER_CACHE_DIR")),
        ("CACHE_DIR", "FILE/icmformer", "cache folder", ("is a file", "ICMFORMER_CACHE_DIR")),
        ("CACHE_DIR", "/proc/nowhere", "cache folder", ("cannot be written", "ICMFORMER_CACHE_DIR")),
        ("WEIGHTS", "nowhere", "weights", ("no weights 'nowhere'", "set ICMFORMER_WEIGHTS")),
        ("DEVICE", "tpu9", "device", ("tpu9", "set ICMFORMER_DEVICE")),
        ("DEVICE", f"cuda:{torch.cuda.device_count()}", "device", ("is not there", "ICMFORMER_DEVICE")),
    ],
)
def test_a_fault_of_one_setting_is_one_failed_line(doctor, monkeypatch, tmp_path, name, value, line, texts):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(f"ICMFORMER_{name}", value.replace("FILE/..", str(tmp_path)).replace("FILE", f"{tmp_path}/file"))
    report = doctor()
    assert report.failed == [line]
    for text in texts:
        assert text in report.told(line)
    for other in {"settings": ("segment", "device"), "weights": ("segment",), "device": ("gpu", "segment")}.get(
        line, ()
    ):
        assert report.state(other) == "skipped"


def test_untrained_weights_are_a_warning_and_a_click_log_is_not_made(doctor, monkeypatch, tmp_path):
    monkeypatch.setenv("ICMFORMER_CLICK_LOG", str(tmp_path / "new" / "log.jsonl"))
    report = doctor()
    assert report.failed == []
    assert not (tmp_path / "new").exists()
    assert report.state("weights") == "warning"
    assert "untrained" in report.told("weights")


def test_a_misspelt_setting_is_told_with_what_was_meant(doctor, monkeypatch):
    for name in ("ICMFORMER_WEIGHT", "icmformer_profile", "ICMFORMER_NONSENSE", "ICMFORMER_TIMEOUT"):
        monkeypatch.setenv(name, "exact")
    report = doctor()
    assert report.state("variables") == "warning"
    told = report.told("variables")
    assert "ICMFORMER_WEIGHT (meant ICMFORMER_WEIGHTS?)" in told
    assert "icmformer_profile (meant ICMFORMER_PROFILE?)" in told
    assert "ICMFORMER_NONSENSE, ICMFORMER_TIMEOUT, ICMFORMER_WEIGHT (" in told  # nothing is guessed for two of them


def test_every_documented_setting_is_known(doctor, monkeypatch):
    documented = {
        name
        for page in ("settings", "label_studio", "cvat")
        for name in re.findall(r"^\| `(ICMFORMER_\w+)`", (ROOT / f"docs/{page}.md").read_text(), re.M)
    }
    assert len(documented) > 20
    for name in documented:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    assert doctor().state("variables") == "ok"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_weights_with_a_flipped_byte_are_found(doctor, tmp_path, file):
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "icmformer/assets/starter", folder)
    assert doctor("--weights", str(folder)).failed == []
    content = bytearray((folder / file).read_bytes())
    content[-20] ^= 1
    (folder / file).write_bytes(content)
    doctor("--weights", str(folder)).fails_in("weights", file, "icmformer weights verify")


@pytest.mark.parametrize(
    ("cuda", "driver", "visible", "text", "advice"),
    [
        (None, "470.1", None, "does not use the NVIDIA GPU (driver 470.1)", "install a CUDA build of torch"),
        ("13.0", "470.1", None, "does not use the NVIDIA GPU (driver 470.1)", "update NVIDIA's driver"),
        ("13.0", "470.1", "", "does not use the NVIDIA GPU (driver 470.1)", "CUDA_VISIBLE_DEVICES='' hides all GPUs"),
        ("13.0", None, None, "no NVIDIA driver", "--gpus all"),
    ],
)
def test_torch_the_driver_and_the_device_that_do_not_go_together_are_told(
    doctor, monkeypatch, cuda, driver, visible, text, advice
):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(installation, "nvidia_driver", lambda: driver)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    report = doctor()
    assert (report.code, report.state("torch")) == (0, "warning")
    assert text in report.told("torch")
    assert advice in report.checks["torch"]["advice"]
    doctor("--device", "cuda:0").fails_in("device", "sees 0 GPUs", advice, "or set ICMFORMER_DEVICE=cpu")


def cuda(capability=(9, 0), kinds=("sm_80", "sm_90"), free=70_000):
    """`torch.cuda` of a GPU."""
    return SimpleNamespace(
        get_device_capability=lambda name: capability,
        get_arch_list=lambda: list(kinds),
        mem_get_info=lambda name: (free * MB, 80_000 * MB),
    )


@pytest.mark.parametrize(
    ("cuda", "state", "word"),
    [
        (cuda(), "ok", "9.0"),
        (cuda((8, 6)), "ok", "8.6"),  # code for 8.0 runs
        (cuda((6, 1)), "failed", "sm_80"),
        (cuda((12, 0)), "failed", "torch build for this GPU"),
        (cuda((12, 0), ("sm_90", "compute_90")), "ok", "12.0"),
        (cuda(free=300), "failed", "nvidia-smi"),
        (cuda(free=2000), "warning", "not much"),
        (
            SimpleNamespace(get_device_capability=Mock(side_effect=RuntimeError("no luck\nmore"))),
            "failed",
            "no luck",
        ),
    ],
)
def test_what_a_gpu_says_is_judged(monkeypatch, cuda, state, word):
    monkeypatch.setattr(torch, "cuda", cuda)
    finding = machine.gpu("cuda:0")
    assert finding.state == state
    assert word in f"{finding.text} {finding.advice}"


def test_a_cache_folder_that_cannot_be_written_or_is_full_is_found(monkeypatch, tmp_path):
    assert machine.cache_folder(tmp_path / "new" / "er").state == "ok"
    assert list(tmp_path.iterdir()) == []
    usage = shutil.disk_usage(tmp_path)
    for free, state in ((50, "failed"), (500, "warning")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path, free=free: usage._replace(free=free * MB))
        assert machine.cache_folder(tmp_path).state == state
    monkeypatch.setattr(machine.tempfile, "TemporaryFile", Mock(side_effect=PermissionError(13, "Permission denied")))
    finding = machine.cache_folder(tmp_path)
    assert finding.state == "failed"
    assert "Permission denied" in finding.text


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """Writes files in which the kernel tells of memory, below a root folder that is looked at in place of `/`."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)

    def write(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(str(text))

    return write


def available(megabytes):
    return {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable:  {megabytes * 1024} kB\n"}


def test_too_little_memory_fails_and_little_warns(doctor, kernel):
    assert machine.memory(0, 0).state == "skipped"
    kernel(available(200))
    doctor().fails_in("memory", "smaller weights")
    assert machine.memory(10 * MB, 0).facts["least_mb"] == 530
    kernel(available(600))
    assert machine.memory(10 * MB, 300 * MB).state == "warning"
    assert machine.memory(10 * MB, 50 * MB).state == "ok"
    kernel(available(300))
    assert machine.memory(0, 0).state == "failed"
    kernel({"proc/self/status": f"VmRSS:\t {400 * 1024} kB\n"})  # what this process holds comes free
    assert machine.memory(0, 0).state == "ok"


SECOND = {
    "proc/self/cgroup": "0::/pods/a\n",
    "sys/fs/cgroup/pods/memory.max": 700 * MB,
    "sys/fs/cgroup/pods/memory.current": 600 * MB,
    "sys/fs/cgroup/pods/a/memory.max": "max",
    "sys/fs/cgroup/pods/a/memory.current": 600 * MB,
}
FIRST = {
    "proc/self/cgroup": "7:cpu,memory:/gone\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": 300 * MB,
    "sys/fs/cgroup/memory/memory.usage_in_bytes": MB,
}


@pytest.mark.parametrize(
    ("files", "state", "text"),
    [
        (SECOND, "failed", "100 MB free in its control group"),
        (SECOND | {"sys/fs/cgroup/pods/memory.stat": f"anon 5\ninactive_file {550 * MB}\n"}, "ok", "650 MB free"),
        (FIRST, "failed", "299 MB free in its control group"),
        (FIRST | {"sys/fs/cgroup/memory/memory.limit_in_bytes": 2**63 - 4096}, "ok", "9,000 MB free in this machine"),
    ],
)
def test_limits_of_control_groups_of_both_kinds_count(kernel, files, state, text):
    kernel(available(9000) | files)
    finding = machine.memory(0, 0)
    assert finding.state == state
    assert text in finding.text
    assert state == "ok" or "--memory" in finding.advice


def test_openvino_asked_for_and_not_installed_is_found(doctor, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "openvino" else find(name, package)
    )
    for runtime, failing, state in (("openvino", ["openvino"], "failed"), ("auto", [], "warning")):
        monkeypatch.setenv("ICMFORMER_RUNTIME", runtime)
        report = doctor()
        assert (report.failed, report.state("openvino")) == (failing, state)
        assert "icmformer[cpu]" in report.checks["openvino"]["advice"]


def test_an_old_openvino_and_a_device_it_does_not_run_on(monkeypatch):
    monkeypatch.setattr(installation, "version", lambda name: "2024.6.0")
    finding = installation.openvino("auto", "cpu")
    assert finding.state == "warning"
    assert "2025.0" in finding.text
    assert installation.openvino("openvino", "cuda").state == "failed"
    assert installation.openvino("auto", "cuda").state == "skipped"


@pytest.mark.parametrize(
    ("package", "lines", "skipped", "advice"),
    [
        ("openvino", ["openvino"], "segment", "ICMFORMER_RUNTIME=torch"),
        ("torch", ["torch"], "settings", "pip install --force-reinstall torch"),
        ("PIL", ["packages"], "settings", "pip install --force-reinstall numpy pillow"),
        ("cv2", ["opencv", "cvat"], "segment", "pip install opencv-python-headless"),
    ],
)
def test_a_package_that_does_not_load_fails_in_its_line_and_where_needed(tmp_path, package, lines, skipped, advice):
    (tmp_path / f"{package}.py").write_text("raise ImportError('libtbb.so.12: cannot open')")
    done = command("--weights", TINY, "--device", "cpu", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert [name for name, check in checks.items() if check["state"] == "failed"] == lines
    assert checks[skipped]["state"] == "skipped"
    assert "libtbb" in checks[lines[0]]["text"]
    assert advice in checks[lines[0]]["advice"]


def test_packages_that_are_broken_old_or_twice_there_are_named(doctor, monkeypatch, tmp_path):
    description = tmp_path / "opencv_python-4.9.0.dist-info" / "METADATA"
    description.parent.mkdir()
    description.write_text("Metadata-Version: 2.1\nName: opencv-python\nVersion: 4.9.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    doctor().fails_in("opencv", "opencv-python-headless and opencv-python", "-> pip uninstall -y ")
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "safetensors", None)
        finding = installation.packages()
        assert finding.state == "failed"
        assert "safetensors" in finding.text
    monkeypatch.setattr(installation, "version", lambda name: "1.9")
    finding = installation.packages()
    assert finding.state == "warning"
    assert "numpy 1.9 is older than 2.0" in finding.text
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(installation, "installed", lambda name: "5" if name == "opencv-python" else None)
    assert "opencv-python-headless" in installation.opencv().advice


def test_an_old_python_is_refused():
    assert installation.python((3, 10, 4)).state == "failed"
    assert installation.python((3, 14, 0)).state == "ok"


def test_checks_of_a_tool_that_do_not_load_fail_and_absent_ones_do_where_asked_for(doctor, monkeypatch, tmp_path):
    (tmp_path / "broken_tool.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TOOLS, "cvat", "broken_tool")
    report = doctor()
    report.fails_in("cvat", "do not load: ModuleNotFoundError")
    assert report.state("variables") == "skipped"
    monkeypatch.setitem(TOOLS, "cvat", "no_such_tool.doctor")
    monkeypatch.setitem(TOOLS, "label studio", "no_such_tool.doctor")
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

    time_is_over = threading.Event()
    report = Report()
    report.check("broken", broken, secrets=("hush-hush", ""))
    report.check("slow", slow, seconds=0.05)
    report.check("told", lambda: failed("the hush-hush\x1b[2J", "try hush-hush", quoted="hush-hush"), ("absent",))
    report.check("said", lambda: failed("the hush-hush\x1b[2J", "hush-hush", q="hush-hush"), secrets=("hush-hush",))
    report.check("after", lambda: ok("well"))
    time_is_over.set()
    findings = report.findings
    assert [finding.state for finding in findings.values()] == ["failed", "failed", "skipped", "failed", "ok"]
    assert "KeyError" in findings["broken"].text
    assert "no answer within 0.05 s" in findings["slow"].text
    assert "hush" not in repr(findings)
    assert "\x1b" not in findings["said"].text
