"""Stores of weights with versions."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icmformer import weights
from icmformer.errors import WeightsError
from icmformer.models import build_network
from icmformer.weights import NONE_YET, CurrentChangedError, VersionStore, open_store
from icmformer.weights.activation_ranges import ActivationRanges
from tests.engines import MINIATURE

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.weights.test_versions"])  # so that each starts at once


def marked(folder, mark, name="team"):
    """Weights of a tiny network all of whose values are `mark`."""
    state = {
        key: torch.full_like(value, mark) if value.is_floating_point() else value
        for key, value in build_network(MINIATURE).state_dict().items()
    }
    return weights.save(folder, MINIATURE, state, name)


def mark_of(found):
    """The one value that all parameters have."""
    values = {float(t.min()) for t in found.state_dict.values() if t.is_floating_point()}
    values |= {float(t.max()) for t in found.state_dict.values() if t.is_floating_point()}
    assert len(values) == 1, "mixed"
    return values.pop()


@pytest.fixture
def made(tmp_path):
    return [marked(tmp_path / f"made-{mark}", mark) for mark in (1, 2, 3)]


@pytest.fixture
def store(tmp_path):
    return VersionStore(tmp_path / "store")


def test_versions_are_promoted_and_rolled_back(made, store, tmp_path):
    versions = [store.add(folder) for folder in made]
    assert versions == ["team-0001", "team-0002", "team-0003"]
    with pytest.raises(WeightsError, match="no current version yet; to make one: icmformer weights promote"):
        weights.load(store.folder)
    for version in versions:
        store.promote(version)
    found = weights.load(store.folder)
    assert (found.name, found.path, mark_of(found)) == ("team-0003", store.folder / "team-0003", 3)
    assert store.pointer().before == ("team-0001", "team-0002")
    assert json.loads((store.folder / "current").read_text())["version"] == "team-0003"

    pointer = store.pointer()
    store.promote("team-0003")
    assert store.pointer() == pointer  # nothing happened
    assert [store.rollback(), store.rollback()] == ["team-0002", "team-0001"]
    with pytest.raises(WeightsError, match="no version was current in"):
        store.rollback()
    store.promote("team-0003")
    assert store.rollback() == "team-0001"  # what was rolled back is not come to again
    for version in ("team-0002", "team-0003"):
        store.promote(version)
    with pytest.raises(WeightsError, match="'team-0003' was not current before"):
        store.rollback("team-0003")
    assert store.rollback("team-0001") == "team-0001"
    assert store.pointer().before == ()
    states = {version.name: version.state for version in store.versions()}
    assert states == {"team-0001": "current", "team-0002": "kept", "team-0003": "kept"}
    for version, folder in zip(store.versions(), made, strict=True):
        assert version.sha256 == weights.load(folder).sha256
        assert sorted(p.name for p in store.path(version.name).iterdir()) == sorted(p.name for p in folder.iterdir())


def test_the_same_weights_are_one_version_and_a_name_belongs_to_one(made, store, tmp_path):
    first = store.add(made[0])
    assert store.add(made[0]) == first
    assert store.add(store.path(first)) == first
    assert store.add(made[1], "best") == "best"
    assert store.add(made[1], "best") == "best"
    with pytest.raises(WeightsError, match="another version 'best' already"):
        store.add(made[2], "best")
    assert store.add("random:icmformer_vit_tiny224") == "random-icmformer_vit_tiny224-0002"
    for name in ("", ".", "..", "../x", ".hidden", "a/b", "a b", "current", "Current", "end.", "ä", "x" * 101):
        with pytest.raises(WeightsError, match="cannot be a version's name"):
            store.add(made[0], name)
        assert store.folder / name not in store.folder.iterdir() or name in ("", ".", "current")
    assert {v.name for v in store.versions()} == {first, "best", "random-icmformer_vit_tiny224-0002"}


def test_weights_of_other_forms_are_converted_and_known_again(made, store, tmp_path):
    found = weights.load(made[0])
    file = tmp_path / "theirs.pth"
    torch.save({"config": found.config, "model": found.state_dict}, file)
    theirs = weights.load(file)
    version = store.add(file)
    assert version == "theirs-0001"
    assert store.add(file) == version
    assert mark_of(weights.load(store.path(version))) == 1
    assert store.holds(version, theirs)
    assert not store.holds(version, weights.load(made[1]))
    assert not store.holds(version, replace(theirs, serving=replace(theirs.serving, threshold=0.8)))
    ranges = ActivationRanges({"a": (0.0, 1.0)}, {"b": (-1.0, 1.0)})
    assert not store.holds(version, replace(theirs, int8=ranges))


def test_a_store_is_found_wherever_weights_are(made, store, tmp_path, monkeypatch):
    store.promote(store.add(made[0], "one"))
    monkeypatch.setenv("ICMFORMER_WEIGHTS_PATH", str(tmp_path))
    assert weights.load("store").path == store.folder / "one"
    assert weights.available()["store"] == store.folder
    assert weights.locate("store") == store.folder / "one"
    for place in ("one", "one/", "one/model.safetensors"):
        assert weights.load(f"{store.folder}/{place}").name == "one"
    monkeypatch.chdir(store.folder / "one")
    assert weights.load("./").name == "one"
    assert weights.load(made[0]).name == "team"
    (tmp_path / ".lock").touch()  # of a program of its own, a fine-tuning in its run's folder say
    assert weights.load(made[0]).name == "team"
    assert not weights.is_store(tmp_path)
    for folder in (store.folder, store.path("one")):
        with pytest.raises(WeightsError, match="belongs to a store of versions"):
            marked(folder, 4)
    for folder in (made[0], store.path("one")):
        with pytest.raises(WeightsError, match=r"give that, or another folder|and not empty: give another folder"):
            VersionStore(folder).add(made[1])
    with pytest.raises(WeightsError, match="lies in a store of versions"):
        VersionStore(store.folder / "typo").add(made[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 3}',
        '{"version": "../made-1"}',
        '{"version": "one", "before": [2]}',
        "[" * 9999,
    ],
)
def test_a_damaged_pointer_is_told_and_mended_by_a_promotion(made, store, text):
    store.promote(store.add(made[0], "one"))
    (store.folder / "current").write_text(text)
    for read in (store.pointer, lambda: store.current, lambda: weights.load(store.folder), store.rollback):
        with pytest.raises(WeightsError, match="current is damaged"):
            read()
    assert [version.name for version in store.versions()] == ["one"]
    store.promote("one")
    assert weights.load(store.folder).name == "one"


def test_damaged_and_missing_versions_are_not_switched_to(made, store):
    for folder, name in zip(made, ("one", "two", "three"), strict=True):
        store.add(folder, name)
    store.promote("one")
    store.promote("two")
    for name in ("one", "three"):
        model = store.path(name) / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-1] + b"\1")
    for change in (store.rollback, lambda: store.promote("three")):
        with pytest.raises(WeightsError, match="does not have the sha256"):
            change()
    for name in ("four", "../made-1", ".", ""):
        with pytest.raises(WeightsError, match="has no version"):
            store.promote(name)
    assert weights.load(store.folder).name == "two"
    assert [p.name for p in store.folder.iterdir() if p.name.startswith(".part")] == []


def test_pruning_keeps_the_newest_the_current_one_and_the_one_before(made, store):
    versions = [store.add(folder) for folder in made]
    for number, version in enumerate(versions):  # a second apart
        os.utime(store.path(version) / "SHA256SUMS", (1e9 + number, 1e9 + number))
        store.promote(version)
    loaded = weights.load(store.path("team-0001"))
    store.rollback()
    assert store.prune(1) == []
    store.promote("team-0003")
    assert store.prune(1) == ["team-0001"]
    assert (store.current, store.pointer().before) == ("team-0003", ("team-0002",))
    assert mark_of(loaded) == 1  # what is loaded is in memory
    assert store.rollback() == "team-0002"
    assert store.prune(1) == []
    assert [version.name for version in store.versions()] == ["team-0002", "team-0003"]


def promoted(folder, version, expected):
    """In a process of its own: whether the promotion went through."""
    try:
        VersionStore(folder).promote(version, expected)
    except CurrentChangedError as error:
        return error.current
    return None


def test_of_promotions_of_one_version_exactly_one_goes_through(made, store):
    versions = [store.add(folder) for folder in made]
    with ProcessPoolExecutor(2, PROCESSES) as pool:
        for expected in (NONE_YET, *versions):
            if expected:
                store.promote(expected)
            others = [version for version in versions if version != expected][:2]
            results = list(pool.map(promoted, [store.folder] * 2, others, [expected] * 2))
            assert set(results) == {None, store.current}  # one of them, and the other is told what is current
            assert store.current == others[results.index(None)]


def work(folder, made):
    """Adds, promotes, rolls back and deletes until it is killed."""
    store, rng = VersionStore(folder), random.Random(os.getpid())
    while True:
        number = rng.randrange(len(made))
        store.promote(store.add(made[number], f"mark-{number + 1}-{rng.randrange(10**9)}"))
        if rng.random() < 0.3:
            store.rollback()
        if rng.random() < 0.3:
            store.prune(3)


@pytest.mark.slow
def test_killed_at_any_moment_a_store_works_and_its_readers_see_whole_versions(made, store):
    def check(found):
        assert found.name.startswith(f"mark-{mark_of(found):.0f}")
        return found.name

    def read():
        try:
            while not stopping.is_set():
                seen.add(check(weights.load(store.folder)))
        except BaseException as error:
            faults.append(error)

    store.promote(store.add(made[0], "mark-1"))
    stopping, faults, seen, rng = threading.Event(), [], set(), random.Random(0)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(20):
        worker = PROCESSES.Process(target=work, args=(store.folder, made), daemon=True)
        worker.start()
        time.sleep(rng.uniform(0.02, 0.3))
        worker.kill()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        assert weights.load(store.folder).name == store.current
        for version in store.versions():
            check(weights.load(store.path(version.name)))
        store.promote(store.add(made[1], f"mark-2-after-{turn}"))  # no lock is left
        assert store.current == f"mark-2-after-{turn}"
    stopping.set()
    for reader in readers:
        reader.join()
    assert faults == []
    assert len(seen) > 20


CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile")


def dies(folder, source, moment):
    """Adds, promotes and deletes, and is killed before its Nth change to what is in the store."""
    changes = iter(range(1, moment + 1))

    def hook(event, args):
        if event in CHANGES and any(str(folder) in str(arg) for arg in args):
            reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
            if not reads and next(changes) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    store = VersionStore(folder)
    store.promote(store.add(source, "mark-3"))
    store.prune(1)


def test_killed_before_any_change_to_its_files_a_store_works(made, store):
    for folder, name in zip(made[:2], ("mark-1", "mark-2"), strict=True):
        store.promote(store.add(folder, name))
    before = store.folder.rename(store.folder.with_name("before"))
    for moment in itertools.count(1):
        shutil.rmtree(store.folder, ignore_errors=True)
        shutil.copytree(before, store.folder)
        worker = PROCESSES.Process(target=dies, args=(store.folder, made[2], moment), daemon=True)
        worker.start()
        worker.join()
        names = {version.name for version in store.versions()}
        assert names == {p.name for p in store.folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
        for name in names:
            assert name == f"mark-{mark_of(weights.load(store.path(name))):.0f}"
        current = store.current
        assert store.add(made[2], "mark-3") == "mark-3"  # the same command goes on
        store.promote("mark-3")
        assert store.current == "mark-3"
        assert current in ("mark-2", "mark-3")
        if worker.exitcode == 0:
            break
        assert worker.exitcode == -signal.SIGKILL
    assert moment > 15  # as many changes there are
    assert names == {"mark-2", "mark-3"}


def as_nobody(folder, source):
    """What somebody is told who may only read a store, in a process of its own."""
    if os.getuid() == 0:
        os.setuid(65534)
    store, told = VersionStore(folder), [weights.load(folder).name]
    for change in (lambda: store.add(source), lambda: store.promote("two"), store.rollback, lambda: store.prune(1)):
        try:
            change()
        except WeightsError as error:
            told.append(str(error))
    return told


def test_who_may_only_read_a_store_loads_and_is_told():
    home = Path(tempfile.mkdtemp())
    try:
        store = VersionStore(home / "store")
        for mark, name in ((1, "one"), (2, "two")):
            store.add(marked(home / name, mark), name)
        store.promote("two")
        store.promote("one")
        home.chmod(0o755)
        other = marked(home / "three", 3)
        for path in (store.folder / ".versions.lock", store.folder):
            path.chmod(0o555)
        with ProcessPoolExecutor(1, PROCESSES) as pool:
            name, *told = pool.submit(as_nobody, store.folder, other).result()
        assert name == "one"
        assert len(told) == 4
        assert all(f"{store.folder} cannot be written: Permission denied" in line for line in told)
        assert store.current == "one"
    finally:
        (home / "store").chmod(0o755)
        shutil.rmtree(home)


def test_a_folder_of_other_things_becomes_no_store(tmp_path, made):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in (".hidden", "lost+found"):  # as in a volume of its own
        (folder / name).touch()
    store = VersionStore(folder)
    open_store(folder).check_writable()
    assert sorted(os.listdir(folder)) == [".hidden", "lost+found"]  # nothing is changed
    (folder / "photo.png").touch()
    for do in (store.check_writable, lambda: store.add(made[0])):
        with pytest.raises(WeightsError, match="no store of versions, and not empty"):
            do()
    assert len(os.listdir(folder)) == 3
    (folder / "photo.png").unlink()
    assert store.add(made[0]) == "team-0001"


def test_whether_a_store_can_be_written_is_known_before(tmp_path, made):
    store = VersionStore(tmp_path / "a" / "store")
    store.check_writable()
    assert not (tmp_path / "a").exists()
    store.promote(store.add(made[0]))
    store.check_writable()
    (tmp_path / "file").touch()
    for do in (VersionStore.check_writable, lambda other: other.add(made[0])):
        with pytest.raises(WeightsError, match="store cannot be written: Not a directory"):
            do(VersionStore(tmp_path / "file" / "store"))


def test_weights_are_not_taken_for_a_store_to_be_made(made):
    for name in ("starter", made[0], "random:icmformer_vit_tiny224"):
        with pytest.raises(WeightsError, match=r"is weights, and no store .*promote STORE "):
            open_store(name)
