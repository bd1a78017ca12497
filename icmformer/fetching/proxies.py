"""The proxy that requests to public hosts go through, as the environment names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from icmformer.serving.errors import FetchError

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
        """Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small letters first, then in capitals."""
        found = {name: (environment.get(name) or environment.get(name.upper()) or "").strip() for name in _VARIABLES}
        http, https = (_full(found[name] or found["all_proxy"]) for name in ("http_proxy", "https_proxy"))
        return Proxies(http, https, found["no_proxy"])

    def serve(self, scheme: str, host: str, port: int) -> bool:
        """Whether an address is asked for through a proxy."""
        return bool(self._named(scheme)) and not proxy_bypass_environment(f"{host}:{port}", {"no": self.bypass})

    def of(self, scheme: str) -> str:
        """The proxy for a scheme.

        Raises:
            FetchError: What the environment names is no http proxy. It may be of use to other programs: who needs no
                proxy here is not held up by it.
        """
        if fault := self.fault(scheme):
            raise FetchError(f"{fault}; or put the host into no_proxy")
        return self._named(scheme)

    def fault(self, scheme: str) -> str:
        """What is wrong with a scheme's proxy, without the password in it; empty where nothing is."""
        proxy = self._named(scheme)
        try:
            parts = urlsplit(proxy)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            right = False
        if not proxy or (right and all(32 < ord(c) < 127 for c in proxy)):
            return ""
        return (
            f"{scheme}_proxy, or all_proxy, must be the address of an http proxy, such as http://proxy.example.org:3128"
        )

    def _named(self, scheme: str) -> str:
        return self.https if scheme == "https" else self.http


DIRECT = Proxies()
"""No proxy at all."""


def _full(proxy: str) -> str:
    """A proxy's address with its scheme."""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"
