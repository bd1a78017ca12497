"""Settings of the Label Studio backend: those of the engine and its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from icmformer.errors import ConfigError
from icmformer.serving.errors import RequestError
from icmformer.serving.logs import LogFormat
from icmformer.settings import Settings, computed, listed, one_of, text, variable, whole
from ls_backend.addresses import Site, host_name
from ls_backend.proxies import DIRECT, Proxies

_MB = 1 << 20


def _site(name: str, address: str) -> Site:
    """What is at an address of Label Studio."""
    try:
        return Site.of(address)
    except RequestError as error:
        raise ConfigError(
            f"{name} must be an address like http://localhost:8080, scheme first and no user name: {error}"
        ) from error


def _url(name: str, address: str) -> str:
    _site(name, address := address.strip().rstrip("/"))
    return address


def _token(name: str, token: str) -> str:
    token = token.strip()
    if any(not 32 < ord(c) < 127 for c in token):
        raise ConfigError(f"{name} holds blanks or other characters that no token has")
    return token


def _host(name: str, host: str) -> str:
    if "/" in host or host.count(":") == 1 or host.startswith("["):
        raise ConfigError(f"{name} takes names of hosts, without scheme, port or path; got {host!r}")
    return host_name(host)


def _level(name: str, given: str) -> int:
    level = logging.getLevelNamesMapping().get(given.strip().upper())
    if level is None:
        raise ConfigError(f"{name} must be DEBUG, INFO, WARNING or ERROR, got {given.strip()!r}")
    return level


@dataclass(frozen=True)
class BackendSettings(Settings):
    """What the backend goes by."""

    url: str = variable("LABEL_STUDIO_URL LABEL_STUDIO_HOST", "", _url)
    api_key: str = variable("LABEL_STUDIO_API_KEY", "", _token)
    aliases: tuple[Site, ...] = variable("LABEL_STUDIO_ALIASES", (), listed(",", _site))
    user: str = variable("BASIC_AUTH_USER", "", text)
    password: str = variable("BASIC_AUTH_PASS", "", text)
    allowed_hosts: tuple[str, ...] = variable("ICMFORMER_ALLOWED_HOSTS", (), listed(",", _host))
    proxies: Proxies = computed("http_proxy https_proxy all_proxy no_proxy", Proxies.from_environment, DIRECT)
    max_image_bytes: int = variable("ICMFORMER_MAX_IMAGE_MB", 100 << 20, whole(1, 4096, _MB))
    max_body_bytes: int = variable("ICMFORMER_MAX_BODY_MB", 64 << 20, whole(1, 4096, _MB))
    fetch_seconds: int = variable("ICMFORMER_FETCH_SECONDS", 30, whole(1, 90))
    file_cache_bytes: int = variable("ICMFORMER_FILE_CACHE_MB", 1024 << 20, whole(0, 1_000_000, _MB))
    concurrency: int = variable("ICMFORMER_CONCURRENCY", 1, whole(1, 64))
    queue: int = variable("ICMFORMER_QUEUE", 32, whole(0, 10_000))
    queue_seconds: int = variable("ICMFORMER_QUEUE_SECONDS", 20, whole(1, 90))
    polygon_points: int = variable("ICMFORMER_POLYGON_POINTS", 200, whole(4, 100_000))
    log_level: int = variable("LOG_LEVEL", logging.INFO, _level)
    log_format: LogFormat = variable("LOG_FORMAT", "text", one_of("text", "json"))

    def __post_init__(self) -> None:
        if self.api_key and not self.url:
            raise ConfigError("LABEL_STUDIO_API_KEY needs LABEL_STUDIO_URL: a token is sent only to that address")
        if self.aliases and not self.url:
            raise ConfigError("LABEL_STUDIO_ALIASES needs LABEL_STUDIO_URL, the address that is used in place of them")
        if bool(self.user) != bool(self.password):
            raise ConfigError("BASIC_AUTH_USER and BASIC_AUTH_PASS go together; one of them is missing")

    @property
    def places(self) -> int:
        """Requests that the network works on at once; those that are to share a pass must get as far as it."""
        return max(self.concurrency, self.batch)
