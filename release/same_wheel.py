"""Whether the wheel is the same from wherever it is built: `python -m release.same_wheel dist`.

The folder holds one wheel and one source distribution, as `make wheel` writes them. The wheel is built again from the
clone and from the source distribution: each must have the same files, byte by byte, and nothing but the package may lie
at the top of site-packages. Needs pip and what builds wheels (the extra `test`).
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


class WheelError(Exception):
    """A wheel is not what it should be; the text says why."""


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m release.same_wheel", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the wheel and the source distribution are")
    args = parser.parse_args(argv)
    try:
        wheel, sdist = _one(args.folder, "*.whl"), _one(args.folder, "*.tar.gz")
        files = contents(wheel)
        check_top_level(files)
        for what, source in (("the clone", ROOT), (sdist.name, sdist)):
            with tempfile.TemporaryDirectory(prefix="icmformer-wheel-") as folder:
                compare(files, contents(built(source, Path(folder))), f"the wheel built from {what}")
    except (WheelError, OSError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{wheel.name}: {len(files)} files, the same from the clone and from {sdist.name}")
    return 0


def contents(wheel: Path) -> dict[str, str]:
    """Name -> sha256 of all files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def built(source: Path, folder: Path) -> Path:
    """The wheel that pip builds from a folder or a source distribution into an empty folder.

    Raises:
        WheelError: It could not be built.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    done = subprocess.run([*command, str(folder), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(f"no wheel could be built from {source}: {done.stderr[-2000:]}")
    return _one(folder, "*.whl")


def check_top_level(files: dict[str, str]) -> None:
    """Nothing, where all files belong to the package.

    Raises:
        WheelError: Something else would be installed beside it.
    """
    others = {name for name in files if not name.startswith(("icmformer/", "icmformer-"))}
    if others:
        raise WheelError(f"the wheel would install beside the package: {', '.join(sorted(others))}")


def compare(files: dict[str, str], others: dict[str, str], what: str) -> None:
    """Nothing, where both hold the same.

    Raises:
        WheelError: They do not; the text names the files.
    """
    told = [
        *(f"lacks {name}" for name in sorted(files.keys() - others.keys())),
        *(f"adds {name}" for name in sorted(others.keys() - files.keys())),
        *(f"has another {name}" for name in sorted(files.keys() & others.keys()) if files[name] != others[name]),
    ]
    if told:
        raise WheelError(f"{what}\n  " + "\n  ".join(told))


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise WheelError(f"{folder} should hold one {pattern}, but holds {', '.join(p.name for p in found) or 'none'}")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
