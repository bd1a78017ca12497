"""Python, packages, and whether they go together."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from icmformer.diagnosis.report import Finding, Report, failed, ok, skipped, warning

_OLDEST = (3, 11)
_MODULES = {"numpy": "numpy", "pillow": "PIL", "safetensors": "safetensors", "tqdm": "tqdm"}
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
_AGAIN = "install the package again: pip install --force-reinstall"


def check(report: Report) -> None:
    """Checks Python and the packages that are always needed."""
    report.check("python", python)
    report.check("packages", packages)
    report.check("opencv", opencv)
    report.check("torch", torch_build)


def python(running: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Python's version."""
    text = f"{'.'.join(map(str, running))} on {platform.platform()}"
    if running < _OLDEST:
        return failed(f"{text}: too old", f"use Python {'.'.join(map(str, _OLDEST))} or newer")
    return ok(text)


def packages() -> Finding:
    """What is small and always needed: there, and not older than what this package asks for."""
    broken = [f"{name} ({error})" for name, module in _MODULES.items() if (error := import_error(module))]
    if broken:
        return failed(f"cannot be imported: {', '.join(broken)}", f"{_AGAIN} {' '.join(_MODULES)}")
    text = ", ".join(f"{name} {installed(name)}" for name in _MODULES)
    if old := ", ".join(filter(None, map(too_old, _MODULES))):
        return warning(f"{text}: {old}", "pip install --upgrade icmformer")
    return ok(text)


def opencv() -> Finding:
    """OpenCV, which several packages bring as the same module `cv2`."""
    there = [name for name in _OPENCV if installed(name)]
    again = f"pip uninstall -y {' '.join(there) or 'opencv-python'} && pip install {_OPENCV[0]}"
    if len(there) > 1:
        return failed(f"{' and '.join(there)} are both installed and write over each other's files", again)
    text = f"{there[0]} {installed(there[0])}" if there else "installed by other means than pip"
    if error := import_error("cv2"):
        return failed(f"{text}: cv2 cannot be imported ({error})", f"{again}, which needs no libGL")
    return ok(text)


def torch_build() -> Finding:
    """Torch's build, and whether it and the NVIDIA driver go together."""
    if error := import_error("torch"):
        return failed(f"torch cannot be imported ({error})", f"{_AGAIN} torch")
    import torch

    cuda, driver = torch.version.cuda, nvidia_driver()
    facts = {"version": torch.__version__, "cuda": cuda, "driver": driver}
    text = f"{torch.__version__}, a build for {'CPUs' if cuda is None else f'CUDA {cuda}'}"
    if old := too_old("torch"):
        return warning(old, "pip install --upgrade torch", **facts)
    if torch.cuda.is_available():
        return ok(f"{text}, driver {driver or 'unknown'}", **facts)
    if cuda is None and not driver:
        return ok(text, **facts)
    if driver is None:
        text += ", and no NVIDIA driver: everything runs on the CPU"
    else:
        text += f", which does not use the NVIDIA GPU (driver {driver or 'that does not answer'})"
    return warning(text, gpu_advice(), **facts)


def gpu_advice() -> str:
    """What to do for a GPU where torch sees none."""
    import torch

    if torch.version.cuda is None:
        return "to use a GPU install a CUDA build of torch (the README's TORCH_INDEX_URL)"
    if nvidia_driver() is None:
        return "to use a GPU install NVIDIA's driver (in Docker: --gpus all); for the CPU alone a CPU build is smaller"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (not hidden.strip() or hidden.strip().startswith("-")):
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides all GPUs: unset it"
    return (
        "update NVIDIA's driver (nvidia-smi names the CUDA version that it serves at most), or install an older torch"
    )


def openvino(runtime: str, device: str) -> Finding:
    """OpenVINO, where it is what clicks would run on.

    Args:
        runtime: As in ICMFORMER_RUNTIME.
        device: The device that was found: `cpu` or `cuda`, maybe with a number.

    Returns:
        Failed where it is asked for and cannot be used; a warning where it would be quicker than what is used.
    """
    leave = "or set ICMFORMER_RUNTIME=torch"
    get = "pip install 'icmformer[cpu]'"
    if runtime == "torch" or (runtime == "auto" and device != "cpu"):
        return skipped(f"not used: the runtime is torch on {device}")
    if device != "cpu":
        return failed(
            f"it runs on CPUs, and the device is {device}", "set ICMFORMER_RUNTIME=auto, or ICMFORMER_DEVICE=cpu"
        )
    if importlib.util.find_spec("openvino") is None:
        if runtime == "openvino":
            return failed("it was asked for and is not installed", f"{get}, {leave}")
        return warning("not installed: torch is used, two to three times slower on a CPU", get)
    if error := import_error("openvino"):
        return failed(f"installed, and cannot be imported ({error})", f"{_AGAIN} openvino, {leave}")
    text = installed("openvino") or "of unknown version"
    if old := too_old("openvino"):
        return warning(old, f"pip install --upgrade openvino, {leave}", version=text)
    return ok(text, version=text)


def import_error(module: str) -> str:
    """Why a module cannot be imported; empty where it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken library raises anything
        return f"{type(error).__name__}: {error}"
    return ""


def installed(package: str) -> str | None:
    """A package's version; None where it is not installed as one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def too_old(package: str) -> str:
    """What to say of a package older than the least version this one asks for; else empty."""
    try:
        asked = requires("icmformer") or ()
    except PackageNotFoundError:
        return ""
    least = next((m[1] for line in asked if (m := re.match(rf"{package}\s*\(?>=\s*([0-9.]+)", line))), "")
    here = installed(package)
    if here and _numbers(here) < _numbers(least):
        return f"{package} {here} is older than {least}, which is needed"
    return ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def nvidia_driver() -> str | None:
    """The NVIDIA driver's version: None where there is no driver, empty where it does not answer."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else ""
