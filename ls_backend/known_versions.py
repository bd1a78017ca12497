"""Whose tags are in the ids of masks: versions that this process has served, and those that its store of weights holds.

Any replica may hear of a save, also of masks that another one made, before or after a switch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from icmformer import IcmformerError
from icmformer.inference.profiles import PROFILES
from icmformer.serving.version_tags import model_name, version_tag
from icmformer.weights.versions import VersionStore

log = logging.getLogger("icmformer.label_studio")
_PAUSE = 10.0  # seconds between two looks at the store: whoever sends ids that nobody made costs no more


@dataclass(frozen=True)
class KnownVersion:
    """What made a mask.

    Attributes:
        weights: The weights' name.
        model: The model's, as replies have it.
    """

    weights: str
    model: str


class KnownVersions:
    """Finds the versions that tags stand for. There are as many as were served or stored: fit for a metric's label.

    Args:
        served: The weights' names by model's name, of all that this process has served.
        store: Where its weights have versions; None where they have none.
        clock: Seconds.
    """

    def __init__(
        self,
        served: Mapping[str, str],
        store: VersionStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._served, self._store, self._clock = served, store, clock
        self._stored: dict[str, KnownVersion] = {}
        self._next_look = -float("inf")

    def find(self, tag: str | None) -> KnownVersion | None:
        """The version with a tag; None where it is not known."""
        if tag is None:
            return None
        for model, weights in [*self._served.items()]:
            if version_tag(model) == tag:
                return KnownVersion(weights, model)
        if tag not in self._stored and self._store is not None and self._clock() >= self._next_look:
            self._next_look = self._clock() + _PAUSE
            self._look(self._store)
        return self._stored.get(tag)

    def _look(self, store: VersionStore) -> None:
        try:
            versions = store.versions()
        except (IcmformerError, OSError) as error:
            log.warning("the versions of kept masks are not known: %s", error)
            return
        for version in versions:
            for profile in PROFILES:
                model = model_name(version.name, version.sha256, profile)
                self._stored[version_tag(model)] = KnownVersion(version.name, model)
