"""Photos that are fetched by their addresses, in the place of files of a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path


class AddressBook:
    """Notes the addresses of photos; each gets a path by which readers tell one photo from another.

    Args:
        where: What the photos' place is called in messages.
    """

    def __init__(self, where: str) -> None:
        self.folder = where
        self.addresses: dict[Path, tuple[str, str]] = {}
        """Address and task's number of each path: Label Studio gives a storage's files for a task."""

    def place(self, address: str, task: str) -> Path:
        """The path that stands for an address. There is no such file."""
        path = Path("/", hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest())
        self.addresses.setdefault(path, (address, task))
        return path
