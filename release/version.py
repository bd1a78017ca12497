"""The version: `python -m release.version` prints and checks it, `python -m release.version 0.2.0` sets it.

`icmformer/version.py` is its place. Texts that must name it literally (tags of images in manifests and pages, labels of
the Dockerfiles, CITATION.cff) are found by what is written there, in all files of the clone, so that none has to be
listed here. Tests are left alone: they say what they mean.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

PLACE = "icmformer/version.py"
CHANGELOG = "CHANGELOG.md"
_VERSION = r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?"
_GROUP = rf"(?P<version>{_VERSION})(?!\.?\d)"
_PATTERNS = tuple(
    (files, re.compile(f"(?:{text}){_GROUP}", re.MULTILINE))
    for files, text in (
        # icmformer:X-cpu, icmformer==X, icmformer[cpu]==X, icmformer-X.tar.gz, icmformer X, where X is a version
        ("*", r"\bicmformer(?:\[[\w, -]+\])?(?:==|[-:/ @]v?)"),
        ("*", r"\bicmformer/(?:blob|tree|releases/tag|releases/download)/v"),
        (PLACE, r'^__version__ = "'),
        ("CITATION.cff", r"^version: "),
        ("Dockerfile*", r'^ARG VERSION="?|\borg\.opencontainers\.image\.version="'),
        ("*kustomization.yaml", r"^ *newTag: "),
    )
)
_HEADING = re.compile(rf"^## {_GROUP}", re.MULTILINE)


class VersionError(Exception):
    """Something about versions is not as it should be; the text says what."""


@dataclass(frozen=True)
class Mention:
    """A place that names the version.

    Attributes:
        path: The file, from the root of the clone.
        line: Its number, from 1.
        version: What is written there.
    """

    path: str
    line: int
    version: str


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m release.version", description=__doc__.partition("\n")[0])
    parser.add_argument("version", nargs="?", help="the new version, such as 0.2.0 or 0.2.0rc1; without it: check")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the clone (this one)")
    args = parser.parse_args(argv)
    try:
        if args.version is not None:
            changed = write(args.root, args.version)
            print("".join(f"{name}\n" for name in changed) or "nothing to change", end="" if changed else "\n")
        else:
            check(args.root)
            print(current(args.root))
    except (VersionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def current(root: Path) -> str:
    """The version that `icmformer/version.py` has."""
    found = re.search(rf'^__version__ = "({_VERSION})"$', (root / PLACE).read_text(), re.MULTILINE)
    if not found:
        raise VersionError(f'{PLACE} has no line __version__ = "1.2.3"')
    return found[1]


def mentions(root: Path) -> list[Mention]:
    """All places that name a version of icmformer, by file and line."""
    found = set()
    for name, text in _texts(root):
        for match in _matches(name, text):
            found.add(Mention(name, text.count("\n", 0, match.start("version")) + 1, match["version"]))
    return sorted(found, key=lambda mention: (mention.path, mention.line))


def check(root: Path) -> None:
    """Nothing, where all places name the same version and the changelog begins with it.

    Raises:
        VersionError: They do not.
    """
    version = current(root)
    wrong = [f"{m.path}:{m.line} says {m.version}" for m in mentions(root) if m.version != version]
    newest = _HEADING.search((root / CHANGELOG).read_text())
    if newest is None or newest["version"] != version:
        wrong.append(f"{CHANGELOG} begins with {newest['version'] if newest else 'no version'}")
    if wrong:
        raise VersionError(
            f"{PLACE} says {version}, but\n  " + "\n  ".join(wrong) + f"\nmake version VERSION={version} corrects it"
        )


def write(root: Path, version: str) -> list[str]:
    """Sets the version, wherever one is named; the changelog gets a heading for it.

    Returns:
        The files that were changed.

    Raises:
        VersionError: It is none, or this is no clone.
    """
    if not re.fullmatch(_VERSION, version):
        raise VersionError(f"{version!r} is not a version such as 0.2.0 or 0.2.0rc1")
    changed = []
    for name, text in _texts(root):
        new, past = [], 0
        for match in sorted(_matches(name, text), key=lambda match: match.start("version")):
            if match.start("version") >= past:
                new += [text[past : match.start("version")], version]
                past = match.end("version")
        if _put(root / name, text, "".join([*new, text[past:]])):
            changed.append(name)
    log = _read(root / CHANGELOG)
    newest = _HEADING.search(log)
    if newest and newest["version"] != version:
        head = f"## {version} (unreleased)\n\n"
        _put(root / CHANGELOG, log, log[: newest.start()] + head + log[newest.start() :])
        changed.append(CHANGELOG)
    return changed


def _matches(name: str, text: str) -> list[re.Match[str]]:
    return [match for files, pattern in _PATTERNS if fnmatch(name, files) for match in pattern.finditer(text)]


def _texts(root: Path) -> list[tuple[str, str]]:
    """Name and text of the files that git knows or would add, but for tests, links, and the changelog of the past."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise VersionError(f"{root} is no clone of the repository: {listed.stderr.strip()}")
    texts = []
    for name in sorted(set(listed.stdout.split("\0")) - {"", CHANGELOG}):
        path = root / name
        if name.startswith("tests/") or path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            texts.append((name, content.decode(errors="surrogateescape")))
    return texts


def _read(path: Path) -> str:
    return path.read_bytes().decode(errors="surrogateescape")


def _put(path: Path, old: str, new: str) -> bool:
    """Whether something was written; line ends and bytes that are no UTF-8 stay as they are."""
    if old == new:
        return False
    path.write_bytes(new.encode(errors="surrogateescape"))
    return True


if __name__ == "__main__":
    sys.exit(main())
