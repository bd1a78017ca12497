"""`icmformer`: segment an image, look at networks and weights, check an installation."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from icmformer import __version__
from icmformer.cli import applications
from icmformer.disk import disk_full
from icmformer.errors import ConfigError, IcmformerError

_MODULES = {"try": "try_photo"}
"""Of commands whose names are words of Python."""


def _register(name: str, commands: Any) -> None:
    """Adds a command; one that cannot be loaded says so when it is called, so that `doctor` works in any case."""
    try:
        importlib.import_module(f"icmformer.cli.{_MODULES.get(name, name)}").register(commands)
    except Exception as error:  # whatever a broken package raises
        reason = f"{type(error).__name__}: {error}"

        def refuse(_: argparse.Namespace) -> int:
            raise ConfigError(f"`icmformer {name}` cannot start ({reason}); `icmformer doctor` says more")

        broken = commands.add_parser(name, help="cannot start: see `icmformer doctor`", add_help=False)
        broken.add_argument("rest", nargs=argparse.REMAINDER)
        broken.set_defaults(run=refuse)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0; 2 for anything the user can mend, said in one line; 1 where `doctor` or `verify` finds something wrong.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        code = applications.started(words)
        return _run(words) if code is None else code
    except IcmformerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, `| head` for one
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"error: {disk_full(error) or error}", file=sys.stderr)
        return 2


def _run(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="icmformer",
        description="Click on an object, get its mask.",
        epilog="Settings come from ICMFORMER_* environment variables too: `icmformer doctor` shows those in force.",
    )
    parser.add_argument("--version", action="version", version=f"icmformer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in ("segment", "try", "applications", "models", "weights", "export", "boxes", "clicks", "doctor"):
        _register(name, commands)
    args = parser.parse_args(words)
    warnings.showwarning = lambda message, *_args, **_kwargs: print(f"warning: {message}", file=sys.stderr)
    code: int = args.run(args)
    return code
