"""`icmformer weights versions|promote|rollback`: which version of a store is current, and the others."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from icmformer.errors import WeightsError
from icmformer.weights.versions import Version, VersionStore, open_store

_STATES = {"current": "current", "before": "was current", "kept": ""}


def register(actions: Any) -> None:
    """Adds the commands to those of `icmformer weights`."""
    versions = actions.add_parser(
        "versions",
        help="list the versions of a store",
        description="Lists the versions of a store of weights, the oldest first, and which one is current. With "
        "--keep, deletes old ones.",
    )
    _add_store(versions)
    versions.add_argument("--json", action="store_true", help="print as JSON")
    versions.add_argument(
        "--keep",
        type=_count,
        metavar="N",
        help="delete all but the N newest versions and the current one; servers that have loaded one keep it",
    )
    versions.set_defaults(run=_versions)

    promote = actions.add_parser(
        "promote",
        help="make weights, or a version, the current one of a store",
        description="Adds weights to a store as a version, after checking them, and makes it the current one, which "
        "servers of the store take over. Makes the store where there is none.",
    )
    _add_store(promote)
    promote.add_argument(
        "weights", metavar="WEIGHTS|VERSION", help="name or path of weights, or a version of the store"
    )
    promote.add_argument("--name", help="name of the new version (the weights' name and the next number: team-0003)")
    promote.set_defaults(run=_promote)

    rollback = actions.add_parser(
        "rollback",
        help="make the version before the current one of a store",
        description="Makes the version that was current before the current one again; run again, the one before that.",
    )
    _add_store(rollback)
    rollback.add_argument("--to", metavar="VERSION", help="go back to this one of those that were current before")
    rollback.set_defaults(run=_rollback)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="the store: its folder, or its name on the search path")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number from 1 on, got {text!r}")
    return int(text)


def _versions(args: argparse.Namespace) -> int:
    store = open_store(args.store)
    deleted = store.prune(args.keep) if args.keep else []
    found = store.versions()
    if not found:
        store.pointer()  # which says what is missing
    if args.json:
        print(json.dumps([{**asdict(each), "added": _time(each)} for each in found], indent=2))
        return 0
    for name in deleted:
        print(f"deleted: {name}")
    width = max(len(each.name) for each in found)
    for each in found:
        mark = "*" if each.state == "current" else " "
        print(f"{mark} {each.name:<{width}}  {_time(each)}  {each.sha256[:12]}  {_STATES[each.state]}".rstrip())
    pointer = store.pointer()
    print(f"current since {pointer.since}: {pointer.version}")
    print(f"rollback goes to {pointer.before[-1]}" if pointer.before else "there is none to go back to")
    return 0


def _time(version: Version) -> str:
    return datetime.fromtimestamp(version.added, UTC).isoformat(timespec="seconds")


def _promote(args: argparse.Namespace) -> int:
    store = open_store(args.store)
    version = _known(store, args.weights)
    if version is None:
        known = {each.name for each in store.versions()}
        version = store.add(args.weights, args.name)
        print(f"{'added' if version not in known else 'there already'}: {store.path(version)}")
    elif args.name:
        raise WeightsError(f"{version} is a version of {store.folder} already; leave --name out")
    before = next((each.name for each in store.versions() if each.state == "current"), None)
    store.promote(version)
    _tell(store, before)
    return 0


def _known(store: VersionStore, weights: str) -> str | None:
    """The version of the store that is named, by its name or by its path."""
    names = {each.name for each in store.versions()}
    if weights in names:
        return weights
    path = Path(os.path.abspath(Path(weights).expanduser()))
    return path.name if path.parent == Path(os.path.abspath(store.folder)) and path.name in names else None


def _rollback(args: argparse.Namespace) -> int:
    store = open_store(args.store)
    before = store.current
    store.rollback(args.to)
    _tell(store, before)
    print(f"{before} stays in the store: icmformer weights promote {store.folder} {before}")
    return 0


def _tell(store: VersionStore, before: str | None) -> None:
    """Says what servers do now."""
    pointer = store.pointer()
    if pointer.version == before:
        print(f"current, as before: {pointer.version}")
        return
    print(f"current: {pointer.version}" + (f" (before: {before})" if before else ""))
    print(f"servers with ICMFORMER_WEIGHTS={store.folder} load it beside the one in use, and then switch to it")
    if pointer.before:
        print(f"to go back to {pointer.before[-1]}: icmformer weights rollback {store.folder}")
