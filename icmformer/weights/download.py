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
from icmformer.weights.search_path import FILES
from icmformer.weights.store import file_sha256

_BLOCK = 1 << 20


def fetch(
    url: str,
    sha256: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    settings: Settings | None = None,
    *,
    size: int | None = None,
    name: str | None = None,
) -> Path:
    """Downloads a weights file into the cache folder, on request only.

    Args:
        url: An https address (http on this machine).
        sha256: The file's expected sum, or None to trust the transport. A file with it that is there already is not
            downloaded again.
        progress: Called with bytes done and bytes in all (0 when unknown).
        settings: Those of the environment, unless given.
        size: The file's expected length in bytes, or None for any.
        name: The name to keep the file under, with its suffix; the address's unless given.

    Returns:
        The file's path; the name on the search path is its stem.

    Raises:
        WeightsError: Another scheme, a failed transfer, a wrong length or sum, or no such file (what came is not kept).
    """
    _check_address(url)
    settings = settings or Settings.from_environment()
    target = settings.cache_dir / "weights" / (name or Path(urlsplit(url).path).name)
    if target.suffix not in FILES:
        raise WeightsError(f"the address must end in a {', '.join(FILES[:-1])} or {FILES[-1]} file, got {url}")
    partial = target.with_suffix(".part")
    try:
        if sha256 and target.is_file() and file_sha256(target) == sha256.lower():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        found = _transfer(url, partial, size, progress)
        if sha256 and found != sha256.lower():
            raise WeightsError(f"{url} has sha256 {found}, not {sha256}; it was not kept")
        _check_kind(partial, target.suffix, url)
        os.replace(partial, target)
    except WeightsError:
        raise
    except (OSError, ValueError, HTTPException) as error:
        raise WeightsError(f"cannot fetch {url}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _transfer(url: str, partial: Path, size: int | None, progress: Callable[[int, int], None]) -> str:
    """Downloads into `partial`, no more than `size` bytes; the sum of what came."""
    digest, done = hashlib.sha256(), 0
    with build_opener(_SafeRedirects).open(url, timeout=30) as reply, partial.open("wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        if size and total and total != size:
            raise WeightsError(f"{url} has {total:,} bytes, not {size:,}; it is another file and was not fetched")
        while block := reply.read(_BLOCK):
            file.write(block)
            digest.update(block)
            done += len(block)
            progress(done, total or size or 0)
            if size and done > size:
                raise WeightsError(f"{url} has more than {size:,} bytes; it is another file and was not kept")
    if done != (total or size or done):
        raise WeightsError(f"{url} ended after {done:,} of {total or size:,} bytes; try again")
    return digest.hexdigest()


def _check_kind(partial: Path, suffix: str, url: str) -> None:
    """What came must begin as such a file does: a page that says "not found", say, is no weights file."""
    with partial.open("rb") as file:
        start = file.read(9)
    archive, old_pickle = start[:2] == b"PK", start[:1] == b"\x80"
    fits = {".safetensors": start[8:9] == b"{", ".npz": archive, ".pth": archive or old_pickle}
    if not fits[suffix]:
        raise WeightsError(f"what came from {url} is no {suffix} file; it was not kept")


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
