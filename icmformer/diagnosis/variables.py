"""The names of the settings that a module's table, its docstring, has."""

from __future__ import annotations

import re


def names_in(text: str | None) -> frozenset[str]:
    """The settings that a module's table, its docstring, has."""
    return frozenset(re.findall(r"ICMFORMER_\w+", text or ""))
