"""What *Start Training* needs before it may be pressed, and which options of the training an operator may set."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from icmformer.errors import ConfigError
from icmformer.fetching.settings import FetchSettings
from icmformer.settings import text, whole

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

OFF = (
    "Start Training is off: give the backend ICMFORMER_TRAINING_DIR, a folder for the runs, with BASIC_AUTH_USER and "
    "BASIC_AUTH_PASS, LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, and weights with versions as ICMFORMER_WEIGHTS"
)
"""What somebody is told who presses the button of a backend that is not set up for it."""

PROGRAM = (sys.executable, "-P", "-m", "icmformer.applications.training.finetune")
"""The command that trains. With -P no code comes from the folder that it is started in, which servers may write to."""


def _number(what: str, fits: Callable[[float], bool]) -> Callable[[str, str], float]:
    def read(name: str, given: str) -> float:
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise ConfigError(f"{name} must be {what}, got {given!r}")
        return value

    return read


def _choice(*words: str) -> Callable[[str, str], str]:
    def read(name: str, given: str) -> str:
        if given not in words:
            raise ConfigError(f"{name} must be {' or '.join(words)}, got {given!r}")
        return given

    return read


_FLAGS = ("--accepted", "--predictions")
_VALUES: dict[str, Callable[[str, str], object]] = {
    "--orientation": _choice("upright", "stored"),
    "--held-out": _number("a share above 0 and under 1", lambda value: 0 < value < 1),
    "--choosing": _number("a share from 0 to under 1", lambda value: 0 <= value < 1),
    "--group-by": text,
    "--samples": whole(1, 1_000_000_000),
    "--batch": whole(1, 100_000),
    "--lr": _number("a number above 0", lambda value: 0 < value < math.inf),
    "--objects": whole(1, 1_000_000_000),
    "--profile": _choice("exact", "fast"),
    "--device": text,
    "--jobs": whole(1, 1024),
    "--workers": whole(0, 1024),
    "--threads": whole(1, 1024),
    "--seed": whole(0, 1_000_000_000),
}
ALLOWED = (*_FLAGS, *_VALUES)
"""The options of `training.finetune` that do not say what is read, begun with, written or promoted."""
_MODULES = (
    "icmformer.applications.training",
    "pycocotools",
    "yaml",
    "scipy",
    "matplotlib",
    "skimage",
    "imagehash",
    "tensorboard",
)


def read_options(name: str, given: str) -> tuple[str, ...]:
    """Further options of the training, split like a shell's.

    Raises:
        ConfigError: An option that the backend itself sets, or none at all, or a value that it cannot have.
    """
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise ConfigError(f"{name} cannot be split like a shell's command: {error}") from error
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option not in ALLOWED or (equals and option in _FLAGS):
            raise ConfigError(f"{name} may hold {', '.join(ALLOWED)}; not {word!r}")
        if option in _VALUES:
            value = value if equals else next(rest, "")
            if not value or value.startswith("--"):
                raise ConfigError(f"{name}: {option} needs a value")
            _VALUES[option](f"{name}: {option}", value)
    return tuple(words)


def threads_of(options: tuple[str, ...]) -> int:
    """CPU threads of a training: those of its options; else half of the CPUs that this process, or its container, may
    use, so that clicks find some free.
    """
    words = [part for word in options for part in word.split("=", 1)]
    if "--threads" in words:
        return int(words[words.index("--threads") + 1])
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cpus = os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, int(quota) // int(period))
    return max(1, cpus // 2)


def training_store(settings: FetchSettings, user: str) -> Path:
    """The store of weights that trainings begin with and promote to, once all that they need is there.

    Args:
        settings: Where Label Studio is, and the weights.
        user: Whose credentials the backend asks for; empty for none.

    Raises:
        ConfigError: Something is missing; the text says what to do.
        WeightsError: There are no such weights.
    """
    needed = {
        "BASIC_AUTH_USER and BASIC_AUTH_PASS, without which anybody who reaches the backend could start one": (user),
        "LABEL_STUDIO_URL, where the annotations are read": settings.url,
        "LABEL_STUDIO_API_KEY, a token to read the annotations with": settings.api_key,
    }
    for what, value in needed.items():
        if not value:
            raise ConfigError(f"ICMFORMER_TRAINING_DIR (Start Training) needs {what}; set it, or unset the folder")
    if fcntl is None:
        raise ConfigError("ICMFORMER_TRAINING_DIR (Start Training) needs Linux or macOS; unset it")
    missing = [module for module in _MODULES if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"ICMFORMER_TRAINING_DIR (Start Training) needs the extra `train`, of which {', '.join(missing)} is not "
            "installed: pip install 'icmformer[label-studio,train]' (in a checkout: '.[label-studio,train]')"
        )
    from icmformer.weights.versions import store_of  # here: settings are checked where torch does not load, too

    store = store_of(settings.weights, settings)
    if store is None:
        raise ConfigError(
            "ICMFORMER_TRAINING_DIR (Start Training) needs weights with versions, so that promoted ones are served; "
            f"make some: icmformer weights promote STORE {settings.weights}, and set ICMFORMER_WEIGHTS=STORE"
        )
    return store.folder.absolute()
