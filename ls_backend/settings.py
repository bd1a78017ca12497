"""The backend's own settings, from the environment; those of the engine are in `icmformer.settings`.

| variable | meaning | default |
|---|---|---|
| LABEL_STUDIO_URL (or LABEL_STUDIO_HOST) | Label Studio's address as this backend reaches it, sub-path included | |
| LABEL_STUDIO_ALIASES | other addresses that tasks have for Label Studio, by commas; LABEL_STUDIO_URL is asked | none |
| LABEL_STUDIO_API_KEY | legacy or personal access token for fetching images; sent to that address only | |
| BASIC_AUTH_USER, BASIC_AUTH_PASS | asked of every caller but for /health, /ready, /webhook | none |
| ICMFORMER_ALLOWED_HOSTS | other hosts for images, by commas; *.example.org, or * for all public ones | none |
| http_proxy, https_proxy, no_proxy | proxies for public hosts; private addresses are asked directly | none |
| ICMFORMER_MAX_IMAGE_MB | largest image file fetched | 100 |
| ICMFORMER_MAX_BODY_MB | largest request body | 64 |
| ICMFORMER_FETCH_SECONDS | time for fetching an image | 30 |
| ICMFORMER_FILE_CACHE_MB | fetched image files kept in the cache folder | 1024 |
| ICMFORMER_CONCURRENCY | requests that the network works on at once | 1 |
| ICMFORMER_QUEUE | requests that may wait for it | 32 |
| ICMFORMER_QUEUE_SECONDS | how long they wait before they are answered 503 | 20 |
| LOG_LEVEL, LOG_FORMAT | DEBUG, INFO, WARNING or ERROR; text or json | INFO, text |
| ICMFORMER_POLYGON_POINTS | most points of a polygon | 200 |
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

from icmformer.errors import ConfigError
from icmformer.serving.errors import RequestError
from icmformer.serving.logs import LogFormat
from icmformer.settings import number
from ls_backend.addresses import Site, host_name
from ls_backend.proxies import DIRECT, Proxies


@dataclass(frozen=True)
class BackendSettings:
    """See the module's table."""

    url: str = ""
    api_key: str = ""
    user: str = ""
    password: str = ""
    aliases: tuple[Site, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    proxies: Proxies = DIRECT
    max_image_bytes: int = 100 << 20
    max_body_bytes: int = 64 << 20
    fetch_seconds: int = 30
    file_cache_bytes: int = 1024 << 20
    concurrency: int = 1
    queue: int = 32
    queue_seconds: int = 20
    polygon_points: int = 200

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> BackendSettings:
        """Reads the variables of the module's table.

        Raises:
            ConfigError: A value that cannot be used; the text names the variable.
        """
        env = os.environ if environment is None else environment
        url = (env.get("LABEL_STUDIO_URL") or env.get("LABEL_STUDIO_HOST") or "").strip().rstrip("/")
        if url:
            _site("LABEL_STUDIO_URL", url)
        key = env.get("LABEL_STUDIO_API_KEY", "").strip()
        if any(not 32 < ord(c) < 127 for c in key):
            raise ConfigError("LABEL_STUDIO_API_KEY holds blanks or other characters that no token has")
        if key and not url:
            raise ConfigError("LABEL_STUDIO_API_KEY needs LABEL_STUDIO_URL: a token is sent to that address alone")
        aliases = [name.strip() for name in env.get("LABEL_STUDIO_ALIASES", "").split(",") if name.strip()]
        if aliases and not url:
            raise ConfigError("LABEL_STUDIO_ALIASES needs LABEL_STUDIO_URL, the address that is asked in their stead")
        user, password = env.get("BASIC_AUTH_USER", ""), env.get("BASIC_AUTH_PASS", "")
        if bool(user) != bool(password):
            raise ConfigError("BASIC_AUTH_USER and BASIC_AUTH_PASS go together; one of them is missing")
        return BackendSettings(
            url=url,
            api_key=key,
            user=user,
            password=password,
            aliases=tuple(_site("LABEL_STUDIO_ALIASES", alias) for alias in aliases),
            proxies=Proxies.from_environment(env),
            allowed_hosts=tuple(
                _host(name.strip()) for name in env.get("ICMFORMER_ALLOWED_HOSTS", "").split(",") if name.strip()
            ),
            max_image_bytes=number(env, "ICMFORMER_MAX_IMAGE_MB", 100, 1, 4096) << 20,
            max_body_bytes=number(env, "ICMFORMER_MAX_BODY_MB", 64, 1, 4096) << 20,
            fetch_seconds=number(env, "ICMFORMER_FETCH_SECONDS", 30, 1, 90),
            file_cache_bytes=number(env, "ICMFORMER_FILE_CACHE_MB", 1024, 0, 1_000_000) << 20,
            concurrency=number(env, "ICMFORMER_CONCURRENCY", 1, 1, 64),
            queue=number(env, "ICMFORMER_QUEUE", 32, 0, 10_000),
            queue_seconds=number(env, "ICMFORMER_QUEUE_SECONDS", 20, 1, 90),
            polygon_points=number(env, "ICMFORMER_POLYGON_POINTS", 200, 4, 100_000),
        )


def log_options(environment: Mapping[str, str] | None = None) -> tuple[int, LogFormat]:
    """The level that LOG_LEVEL names, and the form that LOG_FORMAT does.

    Raises:
        ConfigError: One of them names none.
    """
    env = os.environ if environment is None else environment
    name = env.get("LOG_LEVEL", "").upper() or "INFO"
    level = logging.getLevelNamesMapping().get(name)
    if level is None:
        raise ConfigError(f"LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR, got {name!r}")
    form = env.get("LOG_FORMAT", "").lower() or "text"
    if form not in get_args(LogFormat):
        raise ConfigError(f"LOG_FORMAT must be text or json, got {form!r}")
    return level, cast(LogFormat, form)


def _site(variable: str, address: str) -> Site:
    """What is at an address of Label Studio."""
    try:
        return Site.of(address)
    except RequestError as error:
        raise ConfigError(
            f"{variable} must be an address like http://localhost:8080, scheme first and no user name: {error}"
        ) from error


def _host(name: str) -> str:
    """An entry of ICMFORMER_ALLOWED_HOSTS."""
    if "/" in name or name.count(":") == 1 or name.startswith("["):
        raise ConfigError(f"ICMFORMER_ALLOWED_HOSTS takes names of hosts, without scheme, port or path; got {name!r}")
    return host_name(name)
