"""Under which names a photo may lie in a folder, given its address in a task."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, unquote_plus

from ....data.folders import IMAGE_ENDINGS

_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*://", re.IGNORECASE)
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)", re.IGNORECASE | re.DOTALL)
_UPLOADS = frozenset({"upload", "data"})
_LONGEST = 1 << 16


def is_data(address: str) -> bool:
    """Whether an address holds an image itself."""
    return address[:11].lower() == "data:image/"


def may_be_photo(text: str) -> bool:
    """Whether a text of a task looks like the address of a photo: by its ending, or as an address without one."""
    if is_data(text):
        return True
    text = text.strip()
    if not text or len(text) > _LONGEST:
        return False
    if any(_suffix(name) in IMAGE_ENDINGS for name in names(text)):
        return True
    return (text[0] == "/" or bool(_SCHEME.match(text))) and not re.search(r"\s", text)


def names(address: str) -> list[str]:
    """The paths that an address may mean, the likeliest first; those without an upload's prefix last."""
    found = [name for name in dict.fromkeys(_names(address.strip()[:_LONGEST])) if name]
    return list(dict.fromkeys([*found, *(bare for name in found if (bare := without_prefix(name)))]))


def as_uploaded(name: str) -> str:
    """The name that Label Studio gives an uploaded file, but for the prefix: spaces are underlined, signs dropped."""
    kept = re.sub(r"[^-\w.]", "", unicodedata.normalize("NFC", name).strip().replace(" ", "_"))
    return kept.casefold()


def without_prefix(name: str) -> str:
    """What was uploaded under a name that Label Studio gave a prefix; empty if it has none."""
    *folders, last = name.replace("\\", "/").split("/")
    match = _UPLOADED.fullmatch(last)
    return match[1] if match and (not any(folders) or not _UPLOADS.isdisjoint(folders)) else ""


def _names(address: str) -> Iterator[str]:
    scheme = _SCHEME.match(address)
    rest = address[scheme.end() :] if scheme else address
    path = re.split(r"[?#]", rest, maxsplit=1)[0]
    parameters = _parameters(address)
    if "d" in parameters:  # of Label Studio's local files; long ago the name stood before it
        folder = parameters["d"]
        readings = list(dict.fromkeys([unquote_plus(folder), unquote(folder), folder]))
        yield from (name for name in readings if "local-files" in path or _suffix(name) in IMAGE_ENDINGS)
        yield from (f"{name}/{PurePosixPath(unquote(path)).name}" for name in readings if "local-files" not in path)
    if "fileuri" in parameters:  # as Label Studio's API has the addresses of a cloud storage
        yield from _names(_from_base64(unquote(parameters["fileuri"])))
    web = scheme is not None and scheme[0].lower().startswith("http")
    if not web:  # names of files and of objects in a storage are not escaped
        yield rest
    yield unquote(path)
    yield path
    yield unquote(rest)
    for value in parameters.values():
        if _suffix(unquote_plus(value)) in IMAGE_ENDINGS:
            yield unquote_plus(value)


def _parameters(address: str) -> dict[str, str]:
    """The query of an address, as it stands there: `parse_qsl` would unquote, and a name may not be quoted."""
    query = address.partition("?")[2].partition("#")[0]
    return dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair)


def _from_base64(text: str) -> str:
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if re.search("[-_]", text) else None)
        return decoded.decode()
    except (binascii.Error, ValueError):
        return ""


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > max(name.rfind("/"), name.rfind("\\")) else ""
