"""The function's own settings, from the environment; those of the engine are in `icmformer.settings`.

| variable | meaning | default |
|---|---|---|
| ICMFORMER_CVAT_REPLY | `shapes` (CVAT 2.60 and later) or `mask` (CVAT 2.3 to 2.59) | shapes |
| ICMFORMER_CVAT_PARTS | 1 answers one shape for each connected part of a mask; not with the form `mask` | 0 |
| ICMFORMER_CVAT_KEEP_CLICKED | 1 keeps only the parts of a mask that were clicked on | 0 |
| ICMFORMER_CVAT_FILL_HOLES | holes of at most so many pixels are filled, but for clicked ones | 0 |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from icmformer.errors import ConfigError
from icmformer.geometry import CleanUp
from icmformer.settings import number

ReplyForm = Literal["shapes", "mask"]
_FORMS = ("shapes", "mask")


@dataclass(frozen=True)
class FunctionSettings:
    """See the module's table."""

    reply: ReplyForm = "shapes"
    clean_up: CleanUp = field(default_factory=CleanUp)
    parts: bool = False

    def __post_init__(self) -> None:
        if self.parts and self.reply == "mask":
            raise ConfigError(
                "ICMFORMER_CVAT_PARTS=1 does not go with ICMFORMER_CVAT_REPLY=mask, which holds one mask alone; "
                "unset one of them: CVAT before 2.60 understands no parts"
            )

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> FunctionSettings:
        """Reads the variables of the module's table.

        Raises:
            ConfigError: A value that cannot be used; the text names the variable.
        """
        env = os.environ if environment is None else environment
        reply = env.get("ICMFORMER_CVAT_REPLY", "").strip() or "shapes"
        if reply not in _FORMS:
            raise ConfigError(f"ICMFORMER_CVAT_REPLY must be {' or '.join(_FORMS)}, got {reply!r}")
        return FunctionSettings(
            reply=cast(ReplyForm, reply),
            parts=_yes(env, "ICMFORMER_CVAT_PARTS"),
            clean_up=CleanUp(
                keep_clicked=_yes(env, "ICMFORMER_CVAT_KEEP_CLICKED"),
                fill_holes=number(env, "ICMFORMER_CVAT_FILL_HOLES", 0, 0, 1_000_000_000),
            ),
        )


def _yes(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name, "").strip() or "0"
    if value not in ("0", "1"):
        raise ConfigError(f"{name} must be 0 or 1, got {value!r}")
    return value == "1"
