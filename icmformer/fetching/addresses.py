"""Which addresses this backend fetches from: Label Studio's own, and what the operator allows."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from icmformer.fetching.proxies import DIRECT, Proxies
from icmformer.serving.errors import FetchError, RefusedHostError, RequestError

_PORTS = {"http": 80, "https": 443}
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
_NAME = re.compile(r"([a-z0-9_-]+\.)+(?!localhost)[a-z][a-z0-9-]*", re.ASCII)  # nothing that a proxy takes for a number
_SEPARATORS = re.compile(r"[/\\]")
_DECODINGS = 5  # of a path that is percent-encoded over and over
_FILES = re.compile(r"/data/(upload|local-files)/|/storage-data/|/(tasks|projects)/\d+/(presign|resolve)/")


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
        raise RequestError(f"{shown(url)} is not an address: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise RequestError(f"{shown(url)} is not an http or https address")
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
class Site:
    """What answers below one address: an origin, and of its paths those below a sub-path.

    Attributes:
        origin: Scheme, host and port.
        path: The sub-path's names as they are written; none where the origin as a whole is meant.
    """

    origin: Origin
    path: tuple[str, ...] = ()

    @staticmethod
    def of(url: str) -> Site:
        """The site at an address; errors as in `Origin.of`.

        Raises:
            RequestError: Also an address with a query or fragment, or with a path that reads in several ways.
        """
        bare = url.rstrip("/")
        site = Site(Origin.of(url), tuple(split(bare).path.split("/")[1:]))
        if "?" in url or "#" in url or "" in site.path or not site.holds(f"{bare}/x"):
            raise RequestError(f"{shown(url)} must end with a plain path: no query, no .. and no // in it")
        return site

    def holds(self, url: str) -> bool:
        """Whether an address is below this one, however servers on the way read it.

        They may decode `%2e`, resolve `..`, merge `//`, take a backslash for a slash, and drop what follows a
        semicolon, or do none of it. So nothing that goes up is below a sub-path, wherever it would end: another
        application of the same host must not be reached by any reading.
        """
        if Origin.of(url) != self.origin:
            return False
        path = split(url).path
        return not self.path or (path.split("/")[1 : len(self.path) + 1] == [*self.path] and not _goes_up(path))

    def below(self, url: str) -> str:
        """What of an address that this site holds comes after its own, from the slash on, query included."""
        parts = split(url)
        path = "/" + "/".join(parts.path.split("/")[len(self.path) + 1 :])
        return path + (f"?{parts.query}" if parts.query else "")


def _goes_up(path: str) -> bool:
    """Whether a path has a `..` in it, decoded as often as one likes; one that never ends being coded counts, too."""
    for _ in range(_DECODINGS):
        if any(name.partition(";")[0].strip() == ".." for name in _SEPARATORS.split(path)):
            return True
        before, path = path, unquote(path)
        if path == before:
            return False
    return True


@dataclass(frozen=True)
class Route:
    """How to get to an address that may be fetched.

    Attributes:
        ips: Addresses of its host, in the order to try them; none where a proxy looks the name up.
        port: Its port.
        proxy: The proxy to go through; None for straight.
    """

    ips: tuple[str, ...]
    port: int
    proxy: str | None = None


@dataclass(frozen=True)
class Policy:
    """What may be fetched, and how.

    Attributes:
        home: Label Studio itself; always allowed, private or not.
        allowed_hosts: Other hosts: exact names, `*.example.org`, or `*`. Private addresses need their exact name here.
        proxies: For public hosts; private addresses are never asked for through one.
    """

    home: Site | None
    allowed_hosts: Sequence[str] = ()
    proxies: Proxies = DIRECT

    @staticmethod
    def for_home(url: str, allowed_hosts: Sequence[str], proxies: Proxies = DIRECT) -> Policy:
        """The policy around Label Studio's address; an empty one names none."""
        return Policy(Site.of(url) if url else None, allowed_hosts, proxies)

    def is_home(self, url: str) -> bool:
        """Whether an address is Label Studio's own, sub-path included."""
        return self.home is not None and self.home.holds(url)

    def resolve(self, url: str, public_redirect: bool = False) -> Route:
        """Checks an address and resolves it once, so that what was checked is what is connected to.

        Args:
            url: Where to connect.
            public_redirect: Label Studio itself sent us there (a presigned address): any public host will do.

        Returns:
            Where to connect to, and through which proxy.

        Raises:
            RequestError: No address.
            RefusedHostError: A host that is not allowed, or a private address that is not allowed by its exact name.
            FetchError: A name that does not resolve, or a proxy that is none.
        """
        origin = Origin.of(url)
        home = self.is_home(url)
        by_name = home or origin.host in self.allowed_hosts
        if not (by_name or public_redirect or any(_fits(origin.host, pattern) for pattern in self.allowed_hosts)):
            raise RefusedHostError(self._refusal(url, origin))
        proxied = self.proxies.serve(origin.scheme, origin.host, origin.port)
        found = self._looked_up(url, origin, proxied and (origin.scheme == "https" or not home))
        public = all(_public(ip) for ip in found)
        if not by_name and not public:
            raise RefusedHostError(
                f"{brief(origin.host)} is at a private address, from which nothing is fetched; "
                "name exactly this host in ICMFORMER_ALLOWED_HOSTS to allow it"
            )
        return Route(found, origin.port, self.proxies.of(origin.scheme) if proxied and public else None)

    def _looked_up(self, url: str, origin: Origin, proxied: bool) -> tuple[str, ...]:
        """The addresses of a host; none where its name resolves nowhere here, and a proxy may know it.

        Label Studio's own name is not left to a proxy over plain http: a token would go with it.
        """
        host = split(url).hostname or ""
        try:
            found = socket.getaddrinfo(host, origin.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if proxied and isinstance(error, socket.gaierror) and _NAME.fullmatch(host):
                return ()
            raise FetchError(f"the name {brief(origin.host)} does not resolve: {error}") from error
        return tuple(dict.fromkeys(str(info[4][0]) for info in found))

    def _refusal(self, url: str, origin: Origin) -> str:
        told = f"images from {brief(origin.host)} are not fetched: it is not Label Studio's own address"
        if self.home is not None and origin == self.home.origin:
            return (
                f"{shown(url)} is not below LABEL_STUDIO_URL, and so not Label Studio's: is the path there right? To "
                "fetch from other applications of that host, name it in ICMFORMER_ALLOWED_HOSTS"
            )
        if looks_like_label_studio(url):
            return (
                f"{told} (LABEL_STUDIO_URL). If it is Label Studio by another name, put {label_studio_of(url)} into "
                "LABEL_STUDIO_ALIASES; if not, name the host in ICMFORMER_ALLOWED_HOSTS to allow it"
            )
        return f"{told} (LABEL_STUDIO_URL); name it in ICMFORMER_ALLOWED_HOSTS to allow it"


def looks_like_label_studio(url: str) -> bool:
    """Whether an address has a path as Label Studio's files have."""
    return _FILES.search(split(url).path) is not None


def label_studio_of(url: str) -> str:
    """The address of the Label Studio that one of its files would belong to, as an error may show it."""
    parts = split(url)
    found = _FILES.search(parts.path)
    return brief(f"{parts.scheme}://{parts.netloc}{parts.path[: found.start()] if found else ''}")


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
