"""Fetching weights, on request only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from icmformer.errors import WeightsError
from icmformer.settings import Settings


def fetch(
    url: str,
    sha256: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    settings: Settings | None = None,
) -> Path:
    """Downloads a weights file into the cache folder, on request only.

    Args:
        url: An https address (http on this machine).
        sha256: The file's expected sum, or None to trust the transport.
        progress: Called with bytes done and bytes in all (0 when unknown).
        settings: Those of the environment, unless given.

    Returns:
        The file's path; the name on the search path is its stem.

    Raises:
        WeightsError: Another scheme, a failed transfer, or a wrong sum (the file is not kept).
    """
    _check_address(url)
    settings = settings or Settings.from_environment()
    target = settings.cache_dir / "weights" / Path(urlsplit(url).path).name
    if target.suffix not in (".pth", ".safetensors"):
        raise WeightsError(f"the address must end in a .pth or .safetensors file, got {url}")
    partial = target.with_suffix(".part")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with build_opener(_SafeRedirects).open(url, timeout=30) as reply, partial.open("wb") as file:
            total, done = int(reply.headers.get("Content-Length") or 0), 0
            while block := reply.read(1 << 20):
                file.write(block)
                digest.update(block)
                done += len(block)
                progress(done, total)
        if total and done != total:
            raise WeightsError(f"{url} ended after {done:,} of {total:,} bytes; try again")
        if sha256 and digest.hexdigest() != sha256.lower():
            raise WeightsError(f"{url} has sha256 {digest.hexdigest()}, not {sha256}; it was not kept")
        os.replace(partial, target)
    except (OSError, ValueError, HTTPException) as error:
        raise WeightsError(f"cannot fetch {url}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise WeightsError(f"{url} is not an address: {error}") from error
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise WeightsError(f"weights are fetched over https only, not {url}")


class _SafeRedirects(HTTPRedirectHandler):
    """Follows a redirect only where the first address could have led."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
