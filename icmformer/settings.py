"""Settings from the environment: one frozen object, read once where a program starts, and handed on from there.

Each field carries the name of its variable and how its text is read; a server's own settings extend
`Settings` by further fields of the kind (`serverless/settings.py`, `ls_backend/settings.py`). What each means is
in docs/settings.md, docs/cvat.md and docs/label_studio.md, whose tables a test holds to these fields.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from icmformer.errors import ConfigError

PIXEL_LIMIT = 178_000_000
"""No setting admits larger images: Pillow takes more than this for a decompression bomb."""

T = TypeVar("T")
Word = TypeVar("Word", bound=str)


def variable(name: str, default: T, read: Callable[[str, str], T]) -> T:
    """A field that is read from a variable of the environment; the default where that is empty or not set.

    Args:
        name: The variable; several, of which the first that is set counts, are separated by blanks.
        default: Without one.
        read: Makes the value of a variable's name and its text, or raises `ConfigError`.
    """

    def of(env: Mapping[str, str]) -> T:
        return next((read(one, env[one]) for one in name.split() if env.get(one, "").strip()), default)

    return computed(name, of, default)


def computed(names: str, of: Callable[[Mapping[str, str]], T], default: T | Any = MISSING) -> T:
    """A field that is worked out from the whole environment; see `variable`."""
    about = {"names": names.split(), "of": of}
    if default is MISSING:
        return field(default_factory=lambda: of(os.environ), metadata=about)
    return field(default=default, metadata=about)


def text(name: str, given: str) -> str:
    """Any text."""
    return given


def whole(least: int, most: int, unit: int = 1) -> Callable[[str, str], int]:
    """A whole number from `least` to `most`, times `unit`."""

    def read(name: str, given: str) -> int:
        try:
            value = int(given)
        except ValueError:
            raise ConfigError(f"{name} must be a whole number, got {given.strip()!r}") from None
        if not least <= value <= most:
            raise ConfigError(f"{name} must lie between {least} and {most}, got {value}")
        return value * unit

    return read


def flag(name: str, given: str) -> bool:
    """0 or 1."""
    return one_of("0", "1")(name, given) == "1"


def one_of(*words: Word) -> Callable[[str, str], Word]:
    """One of some words, written in small letters or capitals."""

    def read(name: str, given: str) -> Word:
        found = next((word for word in words if given.strip().lower() == word), None)
        if found is None:
            raise ConfigError(f"{name} must be {' or '.join(words)}, got {given.strip()!r}")
        return found

    return read


def listed(separator: str, read: Callable[[str, str], T]) -> Callable[[str, str], tuple[T, ...]]:
    """Several values, separated."""
    return lambda name, given: tuple(read(name, part.strip()) for part in given.split(separator) if part.strip())


def path(name: str, given: str) -> Path:
    """A path."""
    return Path(given)


def _cache_dir(env: Mapping[str, str]) -> Path:
    """The one that is set; else `icmformer` in the user's cache folder, a temporary one for a user without a home."""
    if env.get("ICMFORMER_CACHE_DIR"):
        return Path(env["ICMFORMER_CACHE_DIR"])
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "icmformer"
    try:
        return Path.home() / ".cache" / "icmformer"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "icmformer"


@dataclass(frozen=True)
class Settings:
    """What every program here goes by. docs/settings.md says more of each field.

    Attributes:
        weights: Name or path of the weights.
        weights_path: Folders searched for weights by name.
        weights_seconds: Seconds between two looks for a new version of the weights; 0 for none.
        cache_dir: Folder for downloaded and converted files.
        device: auto, cpu, cuda or cuda:N.
        profile: exact or fast.
        runtime: auto, torch or openvino.
        precision: What fast computes in: auto, fp32, bf16 or int8.
        threads: CPU threads of the network; 0 leaves the choice to torch.
        batch: Requests that the torch runtime decodes in one pass.
        compile: Whether the torch runtime compiles the network.
        max_pixels: Largest image opened, in pixels.
        image_cache_mb: MB of decoded images kept by a server.
        feature_cache_mb: MB of encoded image features kept.
        state_cache_mb: MB of predictions of unfinished objects kept.
        click_log: File to which servers log clicks; None for none.
    """

    weights: str = variable("ICMFORMER_WEIGHTS", "starter", text)
    weights_path: tuple[Path, ...] = variable("ICMFORMER_WEIGHTS_PATH", (), listed(os.pathsep, path))
    weights_seconds: int = variable("ICMFORMER_WEIGHTS_SECONDS", 5, whole(0, 3600))
    cache_dir: Path = computed("ICMFORMER_CACHE_DIR", _cache_dir)
    device: str = variable("ICMFORMER_DEVICE", "auto", text)
    profile: str = variable("ICMFORMER_PROFILE", "fast", text)
    runtime: str = variable("ICMFORMER_RUNTIME", "auto", text)
    precision: str = variable("ICMFORMER_PRECISION", "auto", text)
    threads: int = variable("ICMFORMER_THREADS", 0, whole(0, 1024))
    batch: int = variable("ICMFORMER_BATCH", 1, whole(1, 64))
    compile: bool = variable("ICMFORMER_COMPILE", False, flag)
    max_pixels: int = variable("ICMFORMER_MAX_PIXELS", 100_000_000, whole(1, PIXEL_LIMIT))
    image_cache_mb: int = variable("ICMFORMER_IMAGE_CACHE_MB", 160, whole(0, 1_000_000))
    feature_cache_mb: int = variable("ICMFORMER_FEATURE_CACHE_MB", 128, whole(0, 1_000_000))
    state_cache_mb: int = variable("ICMFORMER_STATE_CACHE_MB", 48, whole(0, 1_000_000))
    click_log: Path | None = variable("ICMFORMER_CLICK_LOG", None, path)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Reads the variables.

        Raises:
            ConfigError: A value that cannot be used; the text names the variable.
        """
        env = os.environ if environment is None else environment
        return cls(**{each.name: each.metadata["of"](env) for each in fields(cls)})


def variables(settings: type[Settings]) -> tuple[str, ...]:
    """The names of all variables that a class of settings reads."""
    return tuple(name for each in fields(settings) for name in each.metadata["names"])


def without_shared(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables of `Settings`: what is wrong with one is told of those alone."""
    shared = variables(Settings)
    return {name: value for name, value in environment.items() if name not in shared}
