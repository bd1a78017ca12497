"""Following a store of weights: a server whose weights have versions takes over the one that becomes current.

The new version is loaded and warmed up beside the old one, which answers meanwhile; both are in memory for that time.
A version that cannot be used is refused, and the old one goes on. Each replica looks for itself, so all that share the
store come to serve the same. A server that starts where the current version cannot be used begins with another one.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from icmformer import memory
from icmformer.errors import IcmformerError, WeightsError
from icmformer.inference.engine import Engine
from icmformer.serving.core import ServingCore, load_engine
from icmformer.settings import Settings
from icmformer.weights.pointer import Pointer, recorded_pointer
from icmformer.weights.versions import VersionStore, store_of

log = logging.getLogger("icmformer.serving")
_LONGEST_PAUSE = 300.0  # seconds between two tries of a version that is refused


class VersionWatch:
    """Looks at a store of weights from time to time, and has a serving core switch.

    Args:
        core: Answers requests.
        settings: Those that its engine was made with.
        store: The weights.
        seconds: Between two looks.
    """

    def __init__(self, core: ServingCore[Any, Any], settings: Settings, store: VersionStore, seconds: float) -> None:
        self._core, self._settings, self._store, self._seconds = core, settings, store, seconds
        self._refused: tuple[Pointer | str, float, float] | None = None  # what, the next try, the pause after that
        self._stopping = threading.Event()

    def look(self) -> bool:
        """Takes the current version over where it is not the one in use.

        Returns:
            Whether there was a switch. A version that cannot be used is told once, and tried again later.
        """
        try:
            pointer = self._store.pointer()
        except IcmformerError as error:
            self._refuse(str(error), error)
            return False
        if pointer.version == self._core.engine.weights.name:
            self._refused = None
            return False
        if self._refused and self._refused[0] == pointer and time.monotonic() < self._refused[1]:
            return False
        start = time.monotonic()
        try:
            settings = replace(self._settings, weights=str(self._store.path(pointer.version)))
            engine = load_engine(settings, self._core.engine.caches)
        except Exception as error:  # whatever is wrong with it, the old version goes on
            self._refuse(pointer, error)
            return False
        old = self._core.model
        self._core.switch(engine)
        self._refused = None
        del engine
        gc.collect()  # the old network's memory, once its last request has ended
        memory.release()
        log.info("switched from %s to %s in %.1f s", old, self._core.model, time.monotonic() - start)
        return True

    def _refuse(self, what: Pointer | str, error: Exception) -> None:
        """Goes on with the version in use; the same fault is told once, and tried again after longer and longer."""
        now = time.monotonic()
        known = self._refused is not None and self._refused[0] == what
        pause = min(self._refused[2] * 2, _LONGEST_PAUSE) if known and self._refused else self._seconds
        self._refused = what, now + pause, pause
        if not known:
            foreign = None if isinstance(error, IcmformerError) else error
            log.error("%s goes on answering: %s", self._core.model, error or repr(error), exc_info=foreign)
            if self._core.metrics:
                self._core.metrics.switch_refused()

    def start(self) -> None:
        """Looks from now on, in a thread of its own."""
        threading.Thread(target=self._run, name="versions", daemon=True).start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self.look()
            except Exception:
                log.exception("looking for a new version of the weights failed")


def starting_engine(settings: Settings) -> Engine:
    """The engine that a server starts with, as `load_engine` makes it.

    Where the current version of a store cannot be used, it is that of the last one before it that can: annotators
    have masks meanwhile, and `VersionWatch` takes the current one over once it is mended, or another one is current.
    Versions that were rolled back, or never current, do not stand in.

    Raises:
        IcmformerError: Weights, device or settings that cannot be used, and no version can.
    """
    try:
        return load_engine(settings)
    except WeightsError as error:
        for folder in _before(settings):
            with suppress(WeightsError):
                engine = load_engine(replace(settings, weights=str(folder)))
                told = "the current version of the weights cannot be used, %s answers instead: %s"
                log.error(told, folder.name, error)
                return engine
        raise


def _before(settings: Settings) -> list[Path]:
    """The versions that were current before the current one, the last first; none of weights without versions."""
    try:
        store = store_of(settings.weights, settings)
        pointer = recorded_pointer(store.folder) if store else None
    except WeightsError:  # a damaged file: nothing says which they were
        return []
    if store is None or pointer is None:
        return []
    return [store.folder / name for name in dict.fromkeys(reversed(pointer.before)) if name != pointer.version]


def watch_versions(core: ServingCore[Any, Any], settings: Settings) -> VersionWatch | None:
    """Has a server follow its weights' store; None where they have no versions, or are not to be followed."""
    store = store_of(settings.weights, settings)
    if store is None or not settings.weights_seconds:
        return None
    watch = VersionWatch(core, settings, store, settings.weights_seconds)
    watch.start()
    return watch
