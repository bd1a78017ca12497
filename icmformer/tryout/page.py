"""The page, and the rules under which a browser runs it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path


@cache
def page() -> bytes:
    """The page's HTML, one file with its script and its style."""
    return Path(__file__).with_name("page.html").read_bytes()


@cache
def policy() -> str:
    """The Content-Security-Policy of the page: its own script and style by their digests, and this server alone."""
    script, style = (_digest(tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )


def _digest(tag: str) -> str:
    (content,) = re.findall(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), page(), re.S)
    content = content.replace(b"\r\n", b"\n")  # as browsers read it
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
