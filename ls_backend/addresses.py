"""Which addresses this backend fetches from: Label Studio's own, and what the operator allows."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from ls_backend.errors import FetchError, RefusedHostError, RequestError

_PORTS = {"http": 80, "https": 443}
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port; localhost and 127.0.0.1 are one."""

    scheme: str
    host: str
    port: int

    @staticmethod
    def of(url: str) -> Origin:
        """An address's origin.

        Raises:
            RequestError: No http or https address, or one with a user name or control characters in it.
        """
        parts = split(url)
        return Origin(parts.scheme, host_name(parts.hostname or ""), parts.port or _PORTS[parts.scheme])


def host_name(host: str) -> str:
    """A host's name as it is compared: in small letters, this machine's several names as one."""
    host = host.lower().strip("[]").rstrip(".")
    return "localhost" if host in _LOCAL else host


def split(url: str) -> SplitResult:
    """Takes an http or https address apart; errors as in `Origin.of`."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for a port that is no number
    except ValueError as error:
        raise RequestError(f"{shown(url)} is no address: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise RequestError(f"{shown(url)} is no http or https address")
    if parts.username is not None or any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise RequestError(f"{shown(url)} holds a user name, blanks or control characters")
    return parts


def shown(url: str) -> str:
    """An address as logs and errors may show it: short, without user name and password, and without its query, which
    may hold a signature; of Label Studio's local files, whose path is in the query, with that.
    """
    text, _, query = url.partition("?")
    if text.endswith("/data/local-files/") and query.startswith("d="):
        text += f"?{query.partition('&')[0]}"
    scheme, separator, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    return brief(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}")


def brief(text: str) -> str:
    """A text from elsewhere as logs and errors may show it: short, and on one line."""
    text = text[:200].encode("unicode_escape").decode()
    return text if len(text) <= 120 else text[:117] + "..."


@dataclass(frozen=True)
class Policy:
    """What may be fetched.

    Attributes:
        home: Label Studio's own origin; always allowed, private or not.
        allowed_hosts: Other hosts: exact names, `*.example.org`, or `*`. Private addresses need their exact name here.
    """

    home: Origin | None
    allowed_hosts: Sequence[str] = ()

    @staticmethod
    def for_home(url: str, allowed_hosts: Sequence[str]) -> Policy:
        """The policy around Label Studio's address; an empty one names none."""
        return Policy(Origin.of(url) if url else None, allowed_hosts)

    def is_home(self, url: str) -> bool:
        """Whether an address is Label Studio's own."""
        return self.home is not None and Origin.of(url) == self.home

    def resolve(self, url: str, public_redirect: bool = False) -> tuple[list[str], int]:
        """Checks an address and resolves it once, so that what was checked is what is connected to.

        Args:
            url: Where to connect.
            public_redirect: Label Studio itself sent us there (a presigned address): any public host will do.

        Returns:
            IP addresses, in the order to try them, and port.

        Raises:
            RequestError: No address.
            RefusedHostError: A host that is not allowed, or a private address that is not allowed by its exact name.
            FetchError: A name that does not resolve.
        """
        origin = Origin.of(url)
        home = origin == self.home
        by_name = home or origin.host in self.allowed_hosts
        if not (by_name or public_redirect or any(_fits(origin.host, pattern) for pattern in self.allowed_hosts)):
            raise RefusedHostError(
                f"images from {brief(origin.host)} are not fetched: it is not Label Studio's own address "
                "(LABEL_STUDIO_URL); name it in ICMFORMER_ALLOWED_HOSTS to allow it"
            )
        host = split(url).hostname
        try:
            found = [str(info[4][0]) for info in socket.getaddrinfo(host, origin.port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            raise FetchError(f"the name {brief(origin.host)} does not resolve: {error}") from error
        if not by_name and not all(_public(ip) for ip in found):
            raise RefusedHostError(
                f"{brief(origin.host)} is at a private address, which is not fetched from; "
                "name exactly this host in ICMFORMER_ALLOWED_HOSTS to allow it"
            )
        return list(dict.fromkeys(found)), origin.port


def _fits(host: str, pattern: str) -> bool:
    return pattern == "*" or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _public(ip: str) -> bool:
    address = ipaddress.ip_address(ip.split("%", 1)[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = _embedded(address) or address
    return address.is_global and not address.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv6 one end up at, where it holds one."""
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
