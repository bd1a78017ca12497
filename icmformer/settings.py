"""Settings from the environment, read once into one frozen object; nothing else in the package reads the environment.

| variable | meaning | default |
|---|---|---|
| ICMFORMER_WEIGHTS | name or path of the weights | starter |
| ICMFORMER_WEIGHTS_PATH | folders searched for weights by name, separated as in PATH | |
| ICMFORMER_CACHE_DIR | folder for downloaded and converted files | icmformer in the user's cache folder |
| ICMFORMER_DEVICE | auto, cpu, cuda or cuda:N; auto takes a GPU where there is one | auto |
| ICMFORMER_PROFILE | exact or fast | fast |
| ICMFORMER_RUNTIME | auto, torch or openvino; auto is OpenVINO on a CPU where it is installed | auto |
| ICMFORMER_THREADS | CPU threads of the network, 0 for torch's choice | 0 |
| ICMFORMER_BATCH | requests that the torch runtime decodes in one pass; over 1 for many users on one GPU | 1 |
| ICMFORMER_COMPILE | 1 compiles the network at start (torch runtime; CUDA graphs on a GPU) | 0 |
| ICMFORMER_MAX_PIXELS | largest image opened | 100000000 |
| ICMFORMER_IMAGE_CACHE_MB | decoded images kept; one of 100 megapixels takes 287 | 160 |
| ICMFORMER_FEATURE_CACHE_MB | encoded image features kept | 128 |
| ICMFORMER_STATE_CACHE_MB | states of unfinished objects kept | 48 |
| ICMFORMER_CLICK_LOG | file that servers log clicks to, see `icmformer clicks` | none |
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icmformer.errors import ConfigError

PIXEL_LIMIT = 178_000_000
"""No setting admits larger images: Pillow takes more than this for a decompression bomb."""


@dataclass(frozen=True)
class Settings:
    """See the module's table."""

    weights: str = "starter"
    weights_path: tuple[Path, ...] = ()
    cache_dir: Path = field(default_factory=lambda: _cache_home(os.environ) / "icmformer")
    device: str = "auto"
    profile: str = "fast"
    runtime: str = "auto"
    threads: int = 0
    batch: int = 1
    compile: bool = False
    max_pixels: int = 100_000_000
    image_cache_mb: int = 160
    feature_cache_mb: int = 128
    state_cache_mb: int = 48
    click_log: Path | None = None

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
        """Reads the variables of the module's table.

        Raises:
            ConfigError: A value that cannot be used; the text names the variable.
        """
        env = os.environ if environment is None else environment
        base = Settings()
        return Settings(
            weights=env.get("ICMFORMER_WEIGHTS") or base.weights,
            weights_path=tuple(Path(p) for p in env.get("ICMFORMER_WEIGHTS_PATH", "").split(os.pathsep) if p),
            cache_dir=Path(env.get("ICMFORMER_CACHE_DIR") or _cache_home(env) / "icmformer"),
            device=env.get("ICMFORMER_DEVICE") or base.device,
            profile=env.get("ICMFORMER_PROFILE") or base.profile,
            runtime=env.get("ICMFORMER_RUNTIME") or base.runtime,
            threads=number(env, "ICMFORMER_THREADS", base.threads, 0, 1024),
            batch=number(env, "ICMFORMER_BATCH", base.batch, 1, 64),
            compile=bool(number(env, "ICMFORMER_COMPILE", base.compile, 0, 1)),
            max_pixels=number(env, "ICMFORMER_MAX_PIXELS", base.max_pixels, 1, PIXEL_LIMIT),
            image_cache_mb=number(env, "ICMFORMER_IMAGE_CACHE_MB", base.image_cache_mb, 0, 1_000_000),
            feature_cache_mb=number(env, "ICMFORMER_FEATURE_CACHE_MB", base.feature_cache_mb, 0, 1_000_000),
            state_cache_mb=number(env, "ICMFORMER_STATE_CACHE_MB", base.state_cache_mb, 0, 1_000_000),
            click_log=Path(env["ICMFORMER_CLICK_LOG"]) if env.get("ICMFORMER_CLICK_LOG") else None,
        )


def _cache_home(env: Mapping[str, str]) -> Path:
    """The user's cache folder; a temporary one for a user without a home, as in some containers."""
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"])
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.gettempdir())


def number(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number from the environment, the default where the variable is empty.

    Raises:
        ConfigError: No whole number, or one outside `least` .. `most`; the text names the variable.
    """
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(f"{name} must be a whole number, got {text!r}") from None
    if not least <= value <= most:
        raise ConfigError(f"{name} must lie between {least} and {most}, got {value}")
    return value
