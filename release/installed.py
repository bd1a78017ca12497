"""Tries an installed icmformer as a stranger has it: `python -I release/installed.py`, with that environment's Python.

All of it is imported, without an effect on the process that imports it; `icmformer doctor` finds nothing wrong, and
`icmformer segment` finds a disk. Run it as a file and with -I, so that the clone it lies in is not what is imported.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
PROGRAMS = (".__main__", "._wsgi")
"""What is started, by Python or gunicorn, and not imported."""
LEAST = 100
"""Fewer modules than this are not all of them."""


def main() -> int:
    """Runs all checks, and says what each found."""
    wrong = []
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Windows' console has not all characters
    with tempfile.TemporaryDirectory(prefix="icmformer-installed-") as name:
        folder = Path(name).resolve()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ICMFORMER_"))}
        environment |= {"ICMFORMER_CACHE_DIR": str(folder / "cache"), "PYTHONUTF8": "1"}
        for check in (imports, doctor, segment):
            (folder / check.__name__).mkdir()
            told = check(folder / check.__name__, environment)
            print(f"{check.__name__}: {told or 'ok'}", flush=True)
            if told:
                wrong.append(check.__name__)
    return 1 if wrong else 0


def imports(folder: Path, environment: dict[str, str]) -> str:
    """What is wrong with importing everything in a process of its own; empty where all is well."""
    done = _run([sys.executable, "-I", str(Path(__file__).resolve()), "--import-all"], folder, environment)
    if done.returncode:
        return f"status {done.returncode}: {done.stderr[-3000:]}"
    *printed, last = done.stdout.splitlines()
    found = json.loads(last)
    left = ", ".join(f"{count} for {name}" for name, count in sorted(Counter(found["optional"].values()).items()))
    print(f"  {len(found['imported'])} modules; left out, as a package of an extra is not installed: {left or 'none'}")
    told = [*printed, *done.stderr.splitlines(), *found["failed"], *found["effects"]]
    if (Path(environment["ICMFORMER_CACHE_DIR"])).exists() or list(folder.iterdir()):
        told.append("files were written")
    if len(found["imported"]) < LEAST:
        told.append(f"only {len(found['imported'])} modules were found")
    return "\n  ".join(told)


def import_all() -> None:
    """Imports every module that is installed, and prints as JSON what came of it."""
    for name in ("cv2", "numpy", "PIL.Image", "safetensors.torch", "torch", "tqdm"):  # whose effects are theirs
        importlib.import_module(name)
    before = _process()
    icmformer = importlib.import_module("icmformer")
    (home,) = icmformer.__path__
    if Path(home).resolve().is_relative_to(CLONE):
        sys.exit(f"{home} is the clone, not an installed package")
    imported, optional, failed = [], {}, []
    for module in pkgutil.walk_packages(icmformer.__path__, "icmformer.", onerror=lambda name: None):
        if module.name.endswith(PROGRAMS):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            if name in sys.stdlib_module_names or name in ("", "icmformer"):  # of another system, or a mistake
                failed.append(f"{module.name}: {error}")
            else:
                optional[module.name] = name
        except BaseException as error:
            failed.append(f"{module.name}: {type(error).__name__}: {error}")
        else:
            imported.append(module.name)
    after = _process()
    effects = [
        f"importing changes {what}: {', '.join(sorted(before[what] ^ after[what]))}"
        for what in before
        if before[what] != after[what]
    ]
    print(json.dumps({"imported": imported, "optional": optional, "failed": failed, "effects": effects}))


def _process() -> dict[str, set[str]]:
    """What an import must leave as it is. Of the environment only sums: its values are not for a log."""
    return {
        "threads": {thread.name for thread in threading.enumerate()},
        "the folder": {os.getcwd()},
        "the environment": {f"{name} ({hash(value):x})" for name, value in os.environ.items()},
        "the search path": set(sys.path),
        "signals": {f"{number.name} {signal.getsignal(number)}" for number in (signal.SIGINT, signal.SIGTERM)},
        "hooks": {str(hook) for hook in (sys.excepthook, sys.displayhook, threading.excepthook)},
    }


def doctor(folder: Path, environment: dict[str, str]) -> str:
    """What `icmformer doctor` says, where it says that something is wrong."""
    done = _run([_program(), "doctor"], folder, environment)
    return f"status {done.returncode}\n{done.stdout}{done.stderr}" if done.returncode else ""


def segment(folder: Path, environment: dict[str, str]) -> str:
    """What is wrong with the mask of a disk that is clicked on; empty where all is well."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[:240, :320]
    disk = (rows - 120) ** 2 + (columns - 160) ** 2 < 60**2
    noise = np.random.default_rng(0).integers(0, 30, (240, 320, 3))
    photo = np.where(disk[..., None], (200, 120, 40), (20, 40, 60)) + noise
    Image.fromarray(photo.astype(np.uint8)).save(folder / "photo.png")
    words = ["segment", "photo.png", "--click", "160,120", "-o", "mask.png", "--overlay", "look.jpg"]
    done = _run([_program(), *words], folder, environment)
    if done.returncode:
        return f"status {done.returncode}\n{done.stdout}{done.stderr}"
    with Image.open(folder / "mask.png") as image:
        mask = np.asarray(image.convert("L")) > 127
    iou = (mask & disk).sum() / (mask | disk).sum()
    return "" if iou > 0.8 and (folder / "look.jpg").is_file() else f"the mask's IoU with the disk is {iou:.2f}"


def _program() -> str:
    return str(Path(sysconfig.get_path("scripts"), "icmformer"))


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=600,
        check=False,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--import-all"]:
        import_all()
    else:
        sys.exit(main())
