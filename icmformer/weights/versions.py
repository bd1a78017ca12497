"""A store of weights with versions: one of them is current, and servers follow it.

    STORE/current     which version is current, and those before it; see `icmformer.weights.pointer`
    STORE/VERSION/    the native form; never changed once it is there

Several programs and machines may share a store. Who writes takes a lock (on `STORE/.versions.lock`); who reads needs
none. A process that is killed leaves a working store, and at most a hidden copy that a later `add` removes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from icmformer.disk import flush, holding, writing
from icmformer.errors import DiskFullError, WeightsError
from icmformer.settings import Settings
from icmformer.weights.pointer import (
    CURRENT_FILE,
    LOCK_FILE,
    Pointer,
    is_store,
    is_version_name,
    read_pointer,
    version_of,
)
from icmformer.weights.search_path import CONFIG_FILE, RANDOM_PREFIX, SUMS_FILE, find
from icmformer.weights.store import Weights, load
from icmformer.weights.version_files import CONVERTED_FROM, are_equal, model_sum, write_version

NONE_YET = ""
"""`expected` of a promotion that is to be the first of its store."""
_PART = ".part-"
_STALE_SECONDS = 3600.0  # of a copy that a killed process left
_MOST_BEFORE = 100
_NUMBER = re.compile(r"-(\d{4,9})$", re.ASCII)
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


class CurrentChangedError(WeightsError):
    """Another version is current than the one that a promotion was to replace; nothing was changed.

    Attributes:
        store: The store's folder.
        expected: The version that was to be replaced; `NONE_YET` for none.
        current: The one that is current; `NONE_YET` for none.
    """

    def __init__(self, store: Path, expected: str, current: str) -> None:
        super().__init__(store, expected, current)  # all, so that it comes whole out of another process
        self.store, self.expected, self.current = store, expected, current

    def __str__(self) -> str:
        return f"{self.current or 'none'} is current in {self.store} by now, not {self.expected or 'none'}"


@dataclass(frozen=True)
class Version:
    """A version of a store.

    Attributes:
        name: Its name.
        sha256: Of its model file, as its SHA256SUMS says.
        added: When it was added, seconds since 1970.
        state: `current`, `before` (it was current, and rollback may go back to it) or `kept`.
    """

    name: str
    sha256: str
    added: float
    state: str


class VersionStore:
    """A folder of weights with versions. Making the object reads and writes nothing.

    Args:
        folder: It is made when the first version is added.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def pointer(self) -> Pointer:
        """Which version is current: one small file, without a lock; errors as in `read_pointer`."""
        return read_pointer(self.folder)

    @property
    def current(self) -> str:
        """The name of the current version; errors as in `read_pointer`."""
        return self.pointer().version

    def path(self, version: str) -> Path:
        """The folder of a version.

        Raises:
            WeightsError: There is none of this name.
        """
        folder = self.folder / version
        if not is_version_name(version) or not (folder / CONFIG_FILE).is_file():
            known = ", ".join(each.name for each in self.versions()) or "none"
            raise WeightsError(f"{self.folder} has no version {version!r} (there are: {known})")
        return folder

    def versions(self) -> list[Version]:
        """All versions, by the time at which they were added; they are listed also where the pointer is damaged."""
        pointer: Pointer | None = None
        with suppress(WeightsError):
            pointer = self.pointer()
        found = []
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(OSError):
                if is_version_name(folder.name) and (folder / CONFIG_FILE).is_file():
                    added = (folder / SUMS_FILE).stat().st_mtime
                    found.append(Version(folder.name, model_sum(folder), added, _state(folder.name, pointer)))
        return sorted(found, key=lambda version: (version.added, version.name))

    def check_writable(self) -> None:
        """Whether versions can be added and promoted here, before work begins that ends so. Nothing is changed.

        Raises:
            WeightsError: The folder cannot be written; one that is missing cannot be made.
            DiskFullError: There is no room.
        """
        with self._writing():
            self._check_place()
            if not self.folder.is_dir():
                there = next(parent for parent in self.folder.absolute().parents if parent.exists())
                if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
                    raise WeightsError(f"{self.folder} cannot be made: {there} is no folder that can be written")
                return
            with suppress(FileNotFoundError):
                os.close(os.open(self.folder / LOCK_FILE, os.O_RDWR))  # not taken: who holds it may do so for long
            probe = self.folder / f"{_PART}{uuid.uuid4().hex}"
            try:
                probe.write_bytes(b"1")
            finally:
                probe.unlink(missing_ok=True)

    def add(self, weights: str | Path, name: str | None = None, settings: Settings | None = None) -> str:
        """Adds weights as a version, which does not make it current. The same weights again are no new version.

        Args:
            weights: Name or path, as for `icmformer.weights.load`.
            name: Of the version; by default the weights' own with the next running number.
            settings: Those of the environment, unless given.

        Returns:
            The version's name.

        Raises:
            WeightsError: Weights that cannot be used, a name that cannot be one or that other weights have, or a folder
                that cannot be written.
            DiskFullError: There is no room; nothing was added.
        """
        if name is not None and not is_version_name(name):
            raise WeightsError(f"{name!r} cannot be a version's name: letters, digits, '.', '_' and '-' may be in it")
        found = load(weights, settings)
        part = self.folder / f"{_PART}{uuid.uuid4().hex}"
        with self._writing():
            self._check_place()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._forget_stale_copies()
                write_version(found, part)
                if not are_equal(load(part, settings), found):
                    raise WeightsError(f"{weights} changed while it was copied; nothing was added")
                with self._locked():
                    version = self._taken(part, name) or name or self._next_name(found.name)
                    if not (self.folder / version).exists():
                        part.rename(self.folder / version)
                        flush(self.folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return version

    def promote(self, version: str, expected: str | None = None) -> None:
        """Makes a version the current one, in one step; one that is current already stays so.

        After a rollback, the version gone back to is the one before: what was rolled back is still in the store, but
        `rollback` does not come to it any more.

        Args:
            version: Its name.
            expected: The version that is to be current until then, `NONE_YET` for none; whatever is, if not given.

        Raises:
            CurrentChangedError: Another one than `expected` is current; nothing was changed.
            WeightsError: There is no such version, it is damaged, or the folder cannot be written.
            DiskFullError: There is no room; the current version stays so.
        """
        load(self.path(version))
        with self._writing(), self._locked():
            known: Pointer | None = None
            with suppress(WeightsError):  # none yet, or a damaged one, which this mends
                known = self.pointer()
            now = known.version if known else NONE_YET
            if expected is not None and expected != now:
                raise CurrentChangedError(self.folder, expected, now)
            if version != now:
                self.path(version)  # it may have been deleted since
                before = (*known.before, known.version) if known else ()
                self._point(Pointer(version, _now(), before[-_MOST_BEFORE:]))

    def rollback(self, to: str | None = None) -> str:
        """Goes back to a version that was current before, and once more to the one before that.

        Those after it stay in the store.

        Args:
            to: Its name; the last one by default.

        Returns:
            The version that is current now.

        Raises:
            WeightsError: There is none before it, `to` was not current before, or the one to go back to is no longer
                there or damaged.
            DiskFullError: There is no room; the current version stays so.
        """
        self.pointer()  # no store: that is the fault, not a lock that cannot be made
        with self._writing(), self._locked():
            pointer = self.pointer()
            if not pointer.before:
                raise WeightsError(
                    f"no version was current in {self.folder} before {pointer.version}: there is none to go back to"
                )
            version = pointer.before[-1] if to is None else to
            if version not in pointer.before:
                raise WeightsError(
                    f"{version!r} was not current before {pointer.version} ({', '.join(pointer.before)} were); "
                    f"to make it current: icmformer weights promote {self.folder} VERSION"
                )
            load(self.path(version))
            place = len(pointer.before) - 1 - pointer.before[::-1].index(version)
            self._point(Pointer(version, _now(), pointer.before[:place]))
        return version

    def holds(self, version: str, weights: Weights) -> bool:
        """Whether a version has the content of weights: network, values, serving defaults and int8 ranges.

        One that `add` converted (from a `.pth`, say) is known by the checksum of what it was made from.

        Raises:
            WeightsError: There is no such version, or it is damaged.
        """
        held = load(self.path(version))
        if isinstance(held.about, dict) and held.about.get(CONVERTED_FROM) == weights.sha256:
            return (held.config, held.serving, held.int8) == (weights.config, weights.serving, weights.int8)
        return (held.identity, held.int8) == (weights.identity, weights.int8)

    def prune(self, keep: int) -> list[str]:
        """Deletes the oldest versions, but neither the current one, nor the one before it, nor the `keep` newest.

        A rollback goes to the one before the current one, and then no longer to those that are deleted. What a server
        has loaded is in its memory, and stays; a training that began with a deleted one cannot go on.

        Returns:
            Their names, the oldest first.

        Raises:
            WeightsError: Nothing is current, or the folder cannot be written.
        """
        if keep < 1:
            raise WeightsError(f"one version at least is to be kept, not {keep}")
        self.pointer()
        with self._writing(), self._locked():
            pointer = self.pointer()
            stay = {pointer.version, *pointer.before[-1:]}
            gone = [version.name for version in self.versions()[:-keep] if version.name not in stay]
            before = tuple(name for name in pointer.before if name not in gone)
            if before != pointer.before:
                self._point(replace(pointer, before=before))
            for name in gone:
                hidden = self.folder / f"{_PART}{uuid.uuid4().hex}"
                (self.folder / name).rename(hidden)  # in one step: nobody finds half of it
                shutil.rmtree(hidden, ignore_errors=True)
        return gone

    def _check_place(self) -> None:
        """Hidden files, and what a file system has of its own, may be in a folder that becomes a store.

        Raises:
            WeightsError: It is in use for something else.
        """
        if is_store(self.folder):
            return
        if version_of(self.folder):
            raise WeightsError(f"{self.folder} lies in a store of versions: give that, or another folder")
        with suppress(FileNotFoundError):
            if any(not name.startswith(".") and name != "lost+found" for name in os.listdir(self.folder)):
                raise WeightsError(f"{self.folder} is no store of versions, and not empty: give another folder")

    def _taken(self, part: Path, name: str | None) -> str | None:
        """The version that holds the same files as a new one already.

        Raises:
            WeightsError: The name belongs to other weights.
        """
        sums = (part / SUMS_FILE).read_bytes()
        same = [v.name for v in self.versions() if (self.folder / v.name / SUMS_FILE).read_bytes() == sums]
        if name is None or name in same:
            return name or (same[0] if same else None)
        if (self.folder / name).exists():
            raise WeightsError(f"{self.folder} has another version {name!r} already; give a name that is free")
        return None

    def _next_name(self, weights: str) -> str:
        """The weights' name with the next running number, instead of the one that it may have."""
        taken = [int(found[1]) for v in self.versions() if (found := _NUMBER.search(v.name))]
        base = _FOREIGN.sub("-", _NUMBER.sub("", weights))[:80].strip(".-_") or "weights"
        return f"{base}-{max(taken, default=0) + 1:04}"

    def _point(self, pointer: Pointer) -> None:
        part = self.folder / f"{_PART}{uuid.uuid4().hex}"
        try:
            with part.open("w") as file:
                file.write(json.dumps(asdict(pointer), indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / CURRENT_FILE)
            flush(self.folder)
        finally:
            part.unlink(missing_ok=True)

    def _forget_stale_copies(self) -> None:
        for path in self.folder.glob(f"{_PART}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Writers take turns. Windows has no such lock: there nothing keeps two of them apart."""
        with holding(self.folder / LOCK_FILE):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(self.folder):
                yield
        except DiskFullError:
            raise
        except OSError as error:
            raise WeightsError(f"{self.folder} cannot be written: {error.strerror or error}") from error


def store_of(weights: str | Path, settings: Settings | None = None) -> VersionStore | None:
    """The store that a name or path of weights stands for; None for weights without versions, or a single version.

    Raises:
        WeightsError: There is nothing of this name.
    """
    if isinstance(weights, str) and weights.startswith(RANDOM_PREFIX):
        return None
    place = find(weights, settings)
    return VersionStore(place) if is_store(place) else None


def open_store(name: str | Path, settings: Settings | None = None) -> VersionStore:
    """The store that a name or path stands for; where there is none, one at this path, which `add` makes.

    Raises:
        WeightsError: It stands for weights that are no store.
    """
    place = None
    if not str(name).startswith(RANDOM_PREFIX):
        try:
            place = find(name, settings)
        except WeightsError:
            return VersionStore(Path(name).expanduser())
        if is_store(place) or (place.is_dir() and not (place / CONFIG_FILE).exists()):
            return VersionStore(place)
    raise WeightsError(
        f"{name} is weights, and no store of versions; to make one of them: icmformer weights promote STORE {name}"
    )


def _state(name: str, pointer: Pointer | None) -> str:
    if pointer is not None and name == pointer.version:
        return "current"
    return "before" if pointer is not None and name in pointer.before else "kept"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
