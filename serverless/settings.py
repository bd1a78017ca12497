"""Settings of the CVAT function: those of the engine and its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from icmformer.errors import ConfigError
from icmformer.geometry import CleanUp
from icmformer.settings import Settings, computed, flag, one_of, variable, whole

ReplyForm = Literal["shapes", "mask"]
_KEEP_CLICKED, _FILL_HOLES = "ICMFORMER_CVAT_KEEP_CLICKED", "ICMFORMER_CVAT_FILL_HOLES"


def _clean_up(env: Mapping[str, str]) -> CleanUp:
    keep, holes = (env.get(name, "").strip() or "0" for name in (_KEEP_CLICKED, _FILL_HOLES))
    return CleanUp(flag(_KEEP_CLICKED, keep), whole(0, 1_000_000_000)(_FILL_HOLES, holes))


@dataclass(frozen=True)
class FunctionSettings(Settings):
    """What the function goes by."""

    reply: ReplyForm = variable("ICMFORMER_CVAT_REPLY", "shapes", one_of("shapes", "mask"))
    parts: bool = variable("ICMFORMER_CVAT_PARTS", False, flag)
    clean_up: CleanUp = computed(f"{_KEEP_CLICKED} {_FILL_HOLES}", _clean_up, CleanUp())

    def __post_init__(self) -> None:
        if self.parts and self.reply == "mask":
            raise ConfigError(
                "ICMFORMER_CVAT_PARTS=1 cannot be combined with ICMFORMER_CVAT_REPLY=mask, which holds a single mask; "
                "unset one of them: CVAT before 2.60 understands no parts"
            )
