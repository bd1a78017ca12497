"""The machine: device, GPU, memory, disk, clock."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icmformer.diagnosis.checks import Outcome, failed, ok, skipped, warning
from icmformer.diagnosis.installation import bad_driver, no_driver, nvidia_driver
from icmformer.errors import DeviceError

ROOT = Path("/")
_MB = 1 << 20
_BASE = 500 * _MB
"""Python, torch and OpenVINO before any network."""
_LEAST_GPU, _GOOD_GPU = 1024 * _MB, 3072 * _MB
_LEAST_DISK, _GOOD_DISK = 100 * _MB, 1024 * _MB
_LEAST_SHARED = 32 * _MB
CLOCK_LIMIT = 120.0
"""Seconds that clocks may differ by: access tokens of Label Studio live for 300."""


def device(name: str) -> Outcome:
    """The device that a name stands for."""
    import torch

    from icmformer.inference.profiles import find_device, has_bf16

    try:
        found = find_device(name)
    except DeviceError as error:
        asked = name.split(":")[0]
        if asked != "cuda":
            return failed(str(error), "set ICMFORMER_DEVICE (--device) to auto, cpu, cuda or cuda:N")
        count = torch.cuda.device_count()
        text = f"{name} was asked for, and torch {torch.__version__} sees {count} GPUs"
        if count:
            return failed(text, f"the GPUs are cuda:0 to cuda:{count - 1}: set ICMFORMER_DEVICE (--device)")
        cpu = "or set ICMFORMER_DEVICE=cpu (--device cpu)"
        if torch.version.cuda is None:
            return failed(text, f"install a CUDA build of torch (the README's TORCH_INDEX_URL), {cpu}")
        return failed(text, f"{no_driver() if nvidia_driver() is None else bad_driver()}; {cpu}")
    kind = torch.cuda.get_device_name(found) if found.type == "cuda" else f"{torch.get_num_threads()} threads"
    return ok(f"{found} ({kind}), bf16 {'yes' if has_bf16(found) else 'no'}", device=str(found))


def gpu(name: str, cuda: Any = None) -> Outcome:
    """The GPU that is used: driver, capability, free memory.

    Args:
        name: The device that was found.
        cuda: `torch.cuda`; another one for tests.
    """
    if not name.startswith("cuda"):
        return skipped("none is used")
    if cuda is None:
        import torch

        cuda = torch.cuda
    try:
        major, minor = cuda.get_device_capability(name)
        kinds = list(cuda.get_arch_list())
        free, total = cuda.mem_get_info(name)
    except RuntimeError as error:
        return failed(f"it does not answer: {str(error).splitlines()[0]}", bad_driver())
    text = (
        f"driver {nvidia_driver() or 'unknown'}, compute capability {major}.{minor}, "
        f"{free // _MB:,} of {total // _MB:,} MB free"
    )
    facts = {"capability": f"{major}.{minor}", "free_mb": free // _MB, "total_mb": total // _MB}
    if not any(_runs(kind, major, minor) for kind in kinds):
        return failed(
            f"{text}; this torch is built for {', '.join(kinds)} only",
            "install a torch build for this GPU (the README's TORCH_INDEX_URL), or set ICMFORMER_DEVICE=cpu",
            **facts,
        )
    more = "end other programs on the GPU (nvidia-smi lists them), or choose another with ICMFORMER_DEVICE=cuda:N"
    if free < _LEAST_GPU:
        return failed(f"{text}: too little", more, **facts)
    return warning(f"{text}: not much", more, **facts) if free < _GOOD_GPU else ok(text, **facts)


def _runs(kind: str, major: int, minor: int) -> bool:
    """Whether code for `sm_XY` or `compute_XY` runs on a capability: newer minors do, newer majors by PTX alone."""
    form, _, digits = kind.partition("_")
    digits = digits.rstrip("af")
    if not digits.isdigit():
        return False
    built = divmod(int(digits), 10)
    return built <= (major, minor) and (form == "compute" or built[0] == major)


def memory(weights_bytes: int, cache_bytes: int, root: Path | None = None) -> Outcome:
    """Memory: what is free for a server, this process gone, against what one needs.

    Args:
        weights_bytes: Of the network's values, as float32.
        cache_bytes: That the caches may fill.
        root: Where `proc`, `sys` and `dev` are.
    """
    root = root or ROOT
    least = _BASE + 3 * weights_bytes
    wanted = least + cache_bytes
    free = {"this machine": _machine(root), "its control group": _control_group(root)}
    known = {where: value for where, value in free.items() if value is not None}
    if not known:
        return skipped("this system does not say how much memory is free")
    where = min(known, key=lambda name: known[name])
    there = known[where] + _own(root)
    shared = _shared(root)
    text = f"{there // _MB:,} MB free in {where}, a server takes {least // _MB:,} to {wanted // _MB:,} MB"
    facts = {"free_mb": there // _MB, "least_mb": least // _MB, "wanted_mb": wanted // _MB}
    more = "end other programs" if where == "this machine" else "raise the limit (docker run --memory, or the pod's)"
    if there < least:
        return failed(f"{text}: too little", f"{more}, or take smaller weights", **facts)
    if there < wanted:
        return warning(text, f"{more}, or lower ICMFORMER_IMAGE_CACHE_MB and ICMFORMER_FEATURE_CACHE_MB", **facts)
    if shared is not None:
        text += f"; /dev/shm has {shared // _MB:,} MB free"
        if shared < _LEAST_SHARED:
            return warning(text, "empty /dev/shm, or give it more: docker run --shm-size 256m", **facts)
    return ok(text, **facts)


def _own(root: Path) -> int:
    """Bytes that this process holds, and gives back before a server starts."""
    try:
        lines = (root / "proc" / "self" / "status").read_text().splitlines()
        found = (line.split() for line in lines if line.startswith("VmRSS:"))
        return next((int(words[1]) * 1024 for words in found), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _shared(root: Path) -> int | None:
    try:
        return shutil.disk_usage(root / "dev" / "shm").free
    except OSError:
        return None


def _machine(root: Path) -> int | None:
    try:
        lines = (root / "proc" / "meminfo").read_text().splitlines()
        found = (line.split() for line in lines if line.startswith("MemAvailable:"))
        return next((int(words[1]) * 1024 for words in found), None)
    except (OSError, ValueError, IndexError):
        return None


def _control_group(root: Path) -> int | None:
    """The least that any of the control groups around this process leaves; None where there is no limit."""
    left = []
    for folder, names in _groups(root):
        limit, used = (_number(folder / name) for name in names)
        if limit is None or used is None or limit > 1 << 60:  # version 1 writes a huge number for "none"
            continue
        left.append(max(0, limit - used + _reclaimable(folder)))
    return min(left, default=None)


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            top, names = root / "sys" / "fs" / "cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top = root / "sys" / "fs" / "cgroup" / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts) + 1):
            yield top.joinpath(*parts[:count]), names


def _reclaimable(folder: Path) -> int:
    """Bytes of files that the system would drop for a process that needs memory."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max" for one
        return None


def cache_folder(folder: Path) -> Outcome:
    """The cache folder: can be written, and has room. Leaves nothing behind."""
    other = "set ICMFORMER_CACHE_DIR to a folder that this user may write"
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            return failed(f"{there} is a file, and {folder} should be a folder", f"remove it, or {other}")
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
        free = shutil.disk_usage(there).free
    except OSError as error:
        return failed(f"{folder} cannot be written: {error.strerror or error}", other)
    text = f"{folder}, {free // _MB:,} MB free"
    room = "make room there, or set ICMFORMER_CACHE_DIR to a folder on another disk"
    if free < _LEAST_DISK:
        return failed(f"{text}: too little", room, free_mb=free // _MB)
    if free < _GOOD_DISK:
        return warning(text, f"{room}: converted networks take up to 4 GB", free_mb=free // _MB)
    return ok(text, free_mb=free // _MB)


def clock(outcomes: Mapping[str, Outcome]) -> Outcome:
    """This machine's clock against those of the servers that were asked."""
    found = {name: o.facts["clock_offset_s"] for name, o in outcomes.items() if "clock_offset_s" in o.facts}
    offsets = {name: value for name, value in found.items() if isinstance(value, float)}
    if not offsets:
        return skipped("unchecked: no server was asked that tells the time")
    worst = max(offsets, key=lambda name: abs(offsets[name]))
    off = offsets[worst]
    text = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} that of {worst}"
    if abs(off) > CLOCK_LIMIT:
        return failed(
            f"{text}: tokens count as expired or not yet valid",
            "set the clock that is wrong, here or there: timedatectl set-ntp true",
            clock_offset_s=off,
        )
    return ok(f"within {max(1.0, abs(off)):.0f} s of {' and '.join(offsets)}", clock_offset_s=off)
