"""The machine: device, GPU, memory, disk, clock."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from icmformer.diagnosis.installation import gpu_advice, nvidia_driver
from icmformer.diagnosis.report import Fact, Finding, failed, ok, skipped, warning
from icmformer.errors import DeviceError

ROOT = Path("/")
_MB = 1 << 20
_BASE = 500 * _MB
"""Python, torch and OpenVINO before any network."""
_LEAST_GPU, _GOOD_GPU = 1024 * _MB, 3072 * _MB
_LEAST_DISK, _GOOD_DISK = 100 * _MB, 1024 * _MB
_LEAST_SHARED = 32 * _MB
_CLOCK_LIMIT = 120.0
"""Seconds that clocks may differ by: access tokens of Label Studio live for 300."""


def device(name: str) -> Finding:
    """The device that a name stands for."""
    import torch

    from icmformer.inference.profiles import find_device, has_bf16
    from icmformer.processor import instruction_sets

    try:
        found = find_device(name)
    except DeviceError as error:
        choose = "set ICMFORMER_DEVICE (--device) to auto, cpu, cuda or cuda:N"
        unseen = name.startswith("cuda") and not torch.cuda.device_count()
        return failed(str(error), f"{gpu_advice()}; or set ICMFORMER_DEVICE=cpu (--device cpu)" if unseen else choose)
    of_cpu = "; ".join([f"{torch.get_num_threads()} threads", *filter(None, [", ".join(instruction_sets())])])
    kind = torch.cuda.get_device_name(found) if found.type == "cuda" else of_cpu
    return ok(f"{found} ({kind}), bf16 {'yes' if has_bf16(found) else 'no'}", device=str(found))


def gpu(name: str) -> Finding:
    """The GPU that is used, by the device's name: driver, capability, free memory."""
    if not name.startswith("cuda"):
        return skipped("none is used")
    from torch import cuda

    try:
        major, minor = cuda.get_device_capability(name)
        kinds = list(cuda.get_arch_list())
        free, total = (size // _MB for size in cuda.mem_get_info(name))
    except RuntimeError as error:
        return failed(f"it does not answer: {str(error).splitlines()[0]}", gpu_advice())
    facts: dict[str, Fact] = {"capability": f"{major}.{minor}", "free_mb": free, "total_mb": total}
    text = f"driver {nvidia_driver() or 'unknown'}, compute capability {major}.{minor}, {free:,} of {total:,} MB free"
    if not any(_runs(kind, major, minor) for kind in kinds):
        return failed(
            f"{text}; this torch is built for {', '.join(kinds)} only",
            "install a torch build for this GPU (the README's TORCH_INDEX_URL), or set ICMFORMER_DEVICE=cpu",
            **facts,
        )
    more = "end other programs on the GPU (nvidia-smi lists them), or choose another with ICMFORMER_DEVICE=cuda:N"
    if free * _MB < _LEAST_GPU:
        return failed(f"{text}: too little", more, **facts)
    return warning(f"{text}: not much", more, **facts) if free * _MB < _GOOD_GPU else ok(text, **facts)


def _runs(kind: str, major: int, minor: int) -> bool:
    """Whether code for `sm_XY` or `compute_XY` runs on a capability: newer minors do, newer majors by PTX alone."""
    form, _, digits = kind.partition("_")
    digits = digits.rstrip("af")
    if not digits.isdigit():
        return False
    built = divmod(int(digits), 10)
    return built <= (major, minor) and (form == "compute" or built[0] == major)


def memory(weights_bytes: int, cache_bytes: int) -> Finding:
    """Memory: what is free for a server, this process gone, against what one needs.

    Args:
        weights_bytes: Of the network's values, as float32.
        cache_bytes: That the caches may fill.
    """
    least = _BASE + 3 * weights_bytes
    wanted = least + cache_bytes
    known = free_memory()
    if not known:
        return skipped("this system does not say how much memory is free")
    where = min(known, key=lambda name: known[name])
    there = known[where] + (_kilobytes("proc/self/status", "VmRSS") or 0)  # which this process gives back
    text = f"{there // _MB:,} MB free in {where}, a server takes {least // _MB:,} to {wanted // _MB:,} MB"
    facts = {"free_mb": there // _MB, "least_mb": least // _MB, "wanted_mb": wanted // _MB}
    more = "end other programs" if where == "this machine" else "raise the limit (docker run --memory, or the pod's)"
    if there < least:
        return failed(f"{text}: too little", f"{more}, or take smaller weights", **facts)
    if there < wanted:
        return warning(text, f"{more}, or lower ICMFORMER_IMAGE_CACHE_MB and ICMFORMER_FEATURE_CACHE_MB", **facts)
    with contextlib.suppress(OSError):
        shared = shutil.disk_usage(ROOT / "dev/shm").free
        text += f"; /dev/shm has {shared // _MB:,} MB free"
        if shared < _LEAST_SHARED:
            return warning(text, "empty /dev/shm, or give it more: docker run --shm-size 256m", **facts)
    return ok(text, **facts)


def free_memory() -> dict[str, int]:
    """Bytes that a process may still take: of the machine and of its control group, of each where it is known."""
    free = {"this machine": _kilobytes("proc/meminfo", "MemAvailable"), "its control group": _control_group()}
    return {where: value for where, value in free.items() if value is not None}


def _kilobytes(file: str, name: str) -> int | None:
    """Bytes by a line like `MemAvailable: 5 kB` of one of the kernel's files."""
    for line in _lines(ROOT / file):
        label, _, size = line.partition(":")
        if label == name:
            return int(size.split()[0]) * 1024
    return None


def _control_group() -> int | None:
    """The least that any of the control groups around this process leaves; None where there is no limit."""
    left = []
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            place, names = f"sys/fs/cgroup{path}", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            place, names = f"sys/fs/cgroup/memory{path}", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for folder in (ROOT / place, *(ROOT / place).parents):
            limit, used = (next(iter(_lines(folder / name)), "") for name in names)
            if not (limit.isdigit() and used.isdigit()) or int(limit) > 1 << 60:  # "max", or version 1's huge number
                continue
            stat = dict(line.split() for line in _lines(folder / "memory.stat"))
            files = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))  # dropped for who needs memory
            left.append(max(0, int(limit) - int(used) + files))
    return min(left, default=None)


def _lines(file: Path) -> list[str]:
    """A file's lines; none where it cannot be read."""
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []


def cache_folder(folder: Path) -> Finding:
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


def clock_facts(date: str | None, now: float) -> dict[str, float]:
    """What a server's Date header says of this machine's clock, as a fact of a finding; nothing where it tells nothing.

    Args:
        date: The header.
        now: What this machine's clock showed when it came, as `time.time` has it.

    Returns:
        `clock_offset_s`: seconds by which this clock is ahead of the server's.
    """
    try:
        there = parsedate_to_datetime(date or "")
    except ValueError:
        return {}
    if there.tzinfo is None:
        there = there.replace(tzinfo=UTC)
    return {"clock_offset_s": (datetime.fromtimestamp(now, UTC) - there).total_seconds()}


def clock(findings: Mapping[str, Finding]) -> Finding:
    """This machine's clock against those of the servers that were asked."""
    told = {name: finding.facts.get("clock_offset_s") for name, finding in findings.items()}
    offsets = {name: offset for name, offset in told.items() if isinstance(offset, float)}
    if not offsets:
        return skipped("unchecked: no server was asked that tells the time")
    worst = max(offsets, key=lambda name: abs(offsets[name]))
    off = offsets[worst]
    if abs(off) > _CLOCK_LIMIT:
        return failed(
            f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} that of {worst}: tokens count as expired or not "
            "yet valid",
            "set the clock that is wrong, here or there: timedatectl set-ntp true",
            clock_offset_s=off,
        )
    return ok(f"within {max(1.0, abs(off)):.0f} s of {' and '.join(offsets)}", clock_offset_s=off)
