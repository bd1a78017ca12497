"""Variables of the environment that look like settings and are none: a misspelt one is silently the default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from icmformer.diagnosis.checks import Outcome, ok, warning
from icmformer.settings import Settings, variables

PREFIX = "ICMFORMER_"


OWN = frozenset(variables(Settings))
"""The settings of `icmformer.settings`."""


def unknown(environment: Mapping[str, str], known: Iterable[str]) -> Outcome:
    """A warning where a variable of our prefix is no setting, with the name that may have been meant.

    Args:
        environment: The environment's variables.
        known: The settings there are.
    """
    known = sorted(known)
    strange = sorted(name for name in environment if name.upper().startswith(PREFIX) and name not in known)
    if not strange:
        return ok(f"no {PREFIX} variable but settings")
    bare = [name.removeprefix(PREFIX) for name in known]
    close = {name: get_close_matches(name.upper().removeprefix(PREFIX), bare, 1, 0.7) for name in strange}
    told = ", ".join(f"{name} (meant {PREFIX}{close[name][0]}?)" if close[name] else name for name in strange)
    return warning(
        f"set, and no setting: {told}",
        "mend the name, or unset it; docs/settings.md, label_studio.md and cvat.md have them all",
    )
