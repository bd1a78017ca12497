"""Settings of whoever fetches from Label Studio or CVAT: the backend, and commands that work on their projects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icmformer.errors import ConfigError
from icmformer.fetching.addresses import Site, host_name
from icmformer.fetching.proxies import DIRECT, Proxies
from icmformer.serving.errors import RequestError
from icmformer.settings import Settings, computed, listed, variable, whole

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


def _cvat(name: str, address: str) -> str:
    """CVAT's address; a bare name is taken for https, as `cvat-cli` takes it."""
    address = address.strip().rstrip("/")
    return _url(name, address if "://" in address else f"https://{address}")


@dataclass(frozen=True)
class FetchSettings(Settings):
    """Where Label Studio is, and what may be fetched."""

    url: str = variable("LABEL_STUDIO_URL LABEL_STUDIO_HOST", "", _url)
    api_key: str = variable("LABEL_STUDIO_API_KEY", "", _token)
    aliases: tuple[Site, ...] = variable("LABEL_STUDIO_ALIASES", (), listed(",", _site))
    allowed_hosts: tuple[str, ...] = variable("ICMFORMER_ALLOWED_HOSTS", (), listed(",", _host))
    proxies: Proxies = computed("http_proxy https_proxy all_proxy no_proxy", Proxies.from_environment, DIRECT)
    max_image_bytes: int = variable("ICMFORMER_MAX_IMAGE_MB", 100 << 20, whole(1, 4096, _MB))
    fetch_seconds: int = variable("ICMFORMER_FETCH_SECONDS", 30, whole(1, 90))
    file_cache_bytes: int = variable("ICMFORMER_FILE_CACHE_MB", 1024 << 20, whole(0, 1_000_000, _MB))

    def __post_init__(self) -> None:
        if self.api_key and not self.url:
            raise ConfigError("LABEL_STUDIO_API_KEY needs LABEL_STUDIO_URL: a token is sent only to that address")
        if self.aliases and not self.url:
            raise ConfigError("LABEL_STUDIO_ALIASES needs LABEL_STUDIO_URL, the address that is used in place of them")

    @property
    def fetched_files(self) -> Path:
        """Folder of the cache of fetched files, which all programs with one cache folder share."""
        return self.cache_dir / "label-studio"


@dataclass(frozen=True)
class CvatSettings(Settings):
    """Where CVAT is, and what is kept of its frames."""

    host: str = variable("CVAT_HOST", "", _cvat)
    token: str = variable("CVAT_ACCESS_TOKEN", "", _token)
    max_image_bytes: int = variable("ICMFORMER_MAX_IMAGE_MB", 100 << 20, whole(1, 4096, _MB))
    file_cache_bytes: int = variable("ICMFORMER_FILE_CACHE_MB", 1024 << 20, whole(0, 1_000_000, _MB))

    @property
    def fetched_files(self) -> Path:
        """Folder of the cache of fetched frames, which all programs with one cache folder share."""
        return self.cache_dir / "cvat"
