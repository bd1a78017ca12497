"""`icmformer weights versions|promote|rollback`, and what they tell where there is no room."""

import json
import os
import re
import resource

import pytest

from icmformer import weights
from icmformer.cli.main import main
from icmformer.errors import DiskFullError
from tests.weights.test_versions import made, mark_of, store

__all__ = ["made", "store"]


@pytest.fixture
def run(store, capsys):
    """Runs a command on the store: its exit status, and what it printed."""

    def command(group, action, *words):
        status = main([group, action, str(store.folder), *map(str, words)])
        told = capsys.readouterr()
        return status, told.out + told.err

    return command


def test_promote_makes_a_store_and_rollback_goes_back(run, made, store):
    assert run("weights", "promote", made[0])[0] == 0
    status, told = run("weights", "promote", made[1], "--name", "better")
    assert status == 0
    assert "current: better (before: team-0001)" in told
    assert f"servers with ICMFORMER_WEIGHTS={store.folder} load it" in told
    assert f"icmformer weights rollback {store.folder}" in told
    assert mark_of(weights.load(store.folder)) == 2

    status, told = run("weights", "rollback")
    assert status == 0
    assert "current: team-0001 (before: better)" in told
    assert store.current == "team-0001"
    again = re.search(r"better stays in the store: icmformer weights promote \S+ (\S+)", told)
    assert run("weights", "promote", again[1])[0] == 0  # what it says works
    assert run("weights", "promote", store.path("better"))[1] == "current, as before: better\n"
    assert run("weights", "promote", made[2])[0] == 0
    assert run("weights", "rollback", "--to", "team-0001")[0] == 0
    assert store.current == "team-0001"
    assert len(store.versions()) == 3


def test_versions_are_listed_and_old_ones_deleted(run, made, store):
    for number, folder in enumerate(made):
        run("weights", "promote", folder)
        os.utime(store.folder / f"team-000{number + 1}" / "SHA256SUMS", (1e9 + number, 1e9 + number))
    run("weights", "rollback")
    status, told = run("weights", "versions")
    assert status == 0
    lines = told.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["team-0001", "*", "team-0003"]
    assert "team-0001  2001-09-09T01:46:40+00:00" in lines[0]
    assert weights.load(made[0]).sha256[:12] in lines[0]
    assert lines[-1] == "rollback goes to team-0001"
    listed = json.loads(run("weights", "versions", "--json")[1])
    assert [(each["name"], each["state"]) for each in listed] == [
        ("team-0001", "before"),
        ("team-0002", "current"),
        ("team-0003", "kept"),
    ]
    assert listed[2]["sha256"] == weights.load(made[2]).sha256
    run("weights", "promote", "team-0003")
    status, told = run("weights", "versions", "--keep", "1")
    assert told.startswith("deleted: team-0001\n  team-0002")
    assert "rollback goes to team-0002" in told
    assert not (store.folder / "team-0001").exists()


def test_mistakes_are_told_in_a_line(run, made, store, tmp_path):
    for words in (["versions"], ["rollback"]):
        status, told = run("weights", *words)
        assert (status, told.count("\n")) == (2, 1)
        assert "there is no store of weights" in told
        assert not store.folder.exists()
    assert run("weights", "promote", "none-such")[0] == 2
    assert not store.folder.exists()
    run("weights", "promote", made[0])
    for words, text in (
        (["rollback"], "no version was current in"),
        (["rollback", "--to", "x"], "none to go back to"),
        (["promote", "team-0001", "--name", "x"], "leave --name out"),
        (["promote", made[1], "--name", "a/b"], "cannot be a version's name"),
        (["promote", made[1], "--name", "team-0001"], "another version 'team-0001' already"),
    ):
        status, told = run("weights", *words)
        assert (status, told.count("\n")) == (2, 1)
        assert text in told
    assert main(["weights", "promote", str(made[0]), str(made[1])]) == 2  # weights are no store
    assert sorted(path.name for path in made[0].iterdir()) == ["SHA256SUMS", "config.json", "model.safetensors"]


def test_without_room_nothing_is_added_and_the_current_version_stays(made, store):
    store.promote(store.add(made[0]))
    before = sorted(store.folder.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(DiskFullError, match=f"cannot write to {store.folder}"):
            store.add(made[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(store.folder.rglob("*")) == before
    assert store.add(made[1]) == "team-0002"
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(DiskFullError, match=f"cannot write to {store.folder}"):
            store.promote("team-0002")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert weights.load(store.folder).name == "team-0001"
    assert sorted(path.name for path in store.folder.iterdir()) == [
        ".versions.lock",
        "current",
        "team-0001",
        "team-0002",
    ]
