"""The proxy that requests to public hosts go through, as the environment names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from icmformer.errors import ConfigError

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Proxies:
    """Proxies by scheme, as http:// or https:// addresses; empty where there is none.

    Attributes:
        http: For http:// addresses.
        https: For https:// addresses, by CONNECT.
        bypass: Hosts that are asked without, by commas; `*` for all.
    """

    http: str = ""
    https: str = ""
    bypass: str = ""

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> Proxies:
        """Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small letters first, then in capitals.

        Raises:
            ConfigError: A proxy that is no http proxy; the text names the variable, not the password in it.
        """
        found = {name: environment.get(name) or environment.get(name.upper()) or "" for name in _VARIABLES}
        for name in _VARIABLES[:3]:
            found[name] = _checked(name, found[name].strip())
        everything = found["all_proxy"]
        return Proxies(found["http_proxy"] or everything, found["https_proxy"] or everything, found["no_proxy"])

    def of(self, scheme: str, host: str, port: int) -> str | None:
        """The proxy for an address; None where it is asked directly."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or proxy_bypass_environment(f"{host}:{port}", {"no": self.bypass}):
            return None
        return proxy


DIRECT = Proxies()
"""No proxy at all."""


def _checked(variable: str, proxy: str) -> str:
    """A proxy's address with its scheme."""
    if not proxy:
        return ""
    full = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(full)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        right = False
    if not right or any(not 32 < ord(c) < 127 for c in full):
        raise ConfigError(f"{variable} must be the address of an http proxy, such as http://proxy.example.org:3128")
    return full
