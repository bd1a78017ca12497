"""A run and a store of weights: which version it begins with, and what becomes of weights that the gate promotes."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icmformer.errors import ConfigError, WeightsError
from icmformer.settings import Settings
from icmformer.weights import NONE_YET, CurrentChangedError, VersionStore, Weights, load, open_store, store_of

from .settings import FinetuneSettings

PROMOTION = "promotion.json"
"""File in the run's folder: what became of its promoted weights in the store."""


@dataclass(frozen=True)
class Promotion:
    """What became of promoted weights in a store.

    Attributes:
        store: Its folder.
        version: The weights' name there.
        switched: Whether this run made it the current version.
        told: For people, in a line.
    """

    store: str
    version: str
    switched: bool
    told: str


def default_weights(promote: str | None) -> str:
    """What a run begins with that names no weights: the current version of the store that it promotes to, if any.

    Else those that are served (`ICMFORMER_WEIGHTS`), unless they are to be in this store, which is still empty.
    """
    if promote and _current(open_store(promote)):
        return str(promote)
    served = Settings.from_environment().weights
    empty = promote and Path(served).absolute() == open_store(promote).folder.absolute()
    return Settings().weights if empty else served


def bound(settings: FinetuneSettings) -> FinetuneSettings:
    """The same settings, with the path of one version instead of a store's, whose current version may change.

    A run that has begun keeps its version. A store to promote to that has none yet gets the weights that the run begins
    with as its first, so that there is something to go back to.

    Raises:
        WeightsError: Weights that are not there, or a store that cannot be used or written.
        ConfigError: The run's version is not in the store.
    """
    if settings.promote:
        open_store(settings.promote).check_writable()  # now, not after hours of training
    known = settings.known()
    remembered = known.get("version") if known else None
    source = store_of(settings.weights)
    if source is None and settings.promote and (known is None or remembered):
        store = _begun(open_store(settings.promote), settings.weights)
        with suppress(WeightsError):  # another store than the run's: told once there is something to promote
            source = store if store.holds(remembered or store.current, load(settings.weights)) else None
    if source is None:
        return settings
    try:
        return dataclasses.replace(settings, weights=str(source.path(remembered or source.current).absolute()))
    except WeightsError as error:
        if not remembered:
            raise
        raise ConfigError(
            f"{settings.out} began with {remembered}, a version that {source.folder} does not have; give another --out"
        ) from error


def promote(settings: FinetuneSettings, weights: Weights, made: Path) -> Promotion:
    """Adds promoted weights to the store, and switches to them if what they were compared with is current still.

    It switches once: where somebody went back since, the same command leaves it at that.

    Args:
        settings: Of the run; `promote` is the store.
        weights: Those that the run began with.
        made: Folder of the promoted ones.

    Raises:
        WeightsError: A store that cannot be used.
        DiskFullError: There is no room in it; the same command goes on.
    """
    store = _begun(open_store(str(settings.promote)), settings.weights)
    version = store.add(made)
    now, switched = store.current, version in _switched(settings.out / PROMOTION)
    if not switched and now != version and store.holds(now, weights):
        try:
            store.promote(version, expected=now)
            now = version
        except CurrentChangedError as error:
            now = error.current
    told = _told(store.folder, version, now, weights.name, switched)
    found = Promotion(str(store.folder), version, switched or now == version, told)
    part = settings.out / f"{PROMOTION}.part"
    part.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    part.replace(settings.out / PROMOTION)
    return found


def _told(store: Path, version: str, now: str, began_with: str, switched: bool) -> str:
    if now == version:
        return f"{version} is the current version of {store}; to go back: icmformer weights rollback {store}"
    by_hand = f"icmformer weights promote {store} {version}"
    if switched:
        return f"{version} was made current before, and {now} is current in {store} by now; to switch again: {by_hand}"
    return (
        f"NOT switched: {now} is current in {store} by now, and the new weights were compared with {began_with}. They "
        f"are its version {version}. A new run (another --out) begins with {now}; to switch without one: {by_hand}"
    )


def _begun(store: VersionStore, weights: str) -> VersionStore:
    """A store with a current version, which is these weights where it had none."""
    if _current(store) is None and not (store.folder / "current").exists():
        first = store.add(weights)
        with suppress(CurrentChangedError):  # another run was quicker
            store.promote(first, expected=NONE_YET)
            print(f"{store.folder}: {first} is the first version, and current", flush=True)
    return store


def _current(store: VersionStore) -> str | None:
    try:
        return store.current
    except WeightsError:
        return None


def _switched(file: Path) -> list[str]:
    """The version that a run made current before this command, if any."""
    with suppress(FileNotFoundError, ValueError, KeyError):
        known = json.loads(file.read_text())
        return [known["version"]] if known["switched"] else []
    return []
