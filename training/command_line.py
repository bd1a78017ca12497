"""What the commands of this package have in common: kinds of options, and how they end."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from icmformer import Engine
from icmformer.disk import disk_full
from icmformer.errors import IcmformerError
from icmformer.inference.profiles import PROFILES

from .evaluation.benchmarks import BENCHMARKS, EvalObject, load_benchmark

_COMMANDS = ("evaluate", "finetune")  # of `icmformer`


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a command, `training.NAME`, whose description is printed as it is written."""
    return argparse.ArgumentParser(
        prog=f"icmformer {name}" if name in _COMMANDS else f"python -m {__package__}.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def given(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The options that are fields of a dataclass by the same name, where they were given or have a default."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def positive_number(text: str) -> float:
    """An argparse type: a number over 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be over 0, got {text}")
    return value


def new_file(*endings: str) -> Callable[[str], Path]:
    """An argparse type: a file to write, in a folder that is there, with one of the endings if any are given."""

    def checked(text: str) -> Path:
        path = Path(text)
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
        if endings and path.suffix not in endings:
            raise argparse.ArgumentTypeError(f"{path.name} must end in {' or '.join(endings)}")
        return path

    return checked


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which data set, and how much of it, is evaluated."""
    parser.add_argument(
        "--dataset",
        required=True,
        choices=list(BENCHMARKS),
        help="what --root is: a benchmark, a folder of your own (folder, label-maps) or training shards (shard, "
        "mosaic, never-trained)",
    )
    parser.add_argument("--root", type=Path, required=True, help="the data set's own folder, or the zip shard")
    parser.add_argument("--limit", type=int, metavar="N", help="only N objects, spread over the set")
    parser.add_argument("--all-clicks", action="store_true", help="make all 20 clicks, for mIoU and AuC")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where an evaluation runs."""
    parser.add_argument("--device", default="cpu", help="one device, or several separated by commas (cpu)")
    parser.add_argument("--jobs", type=int, default=1, help="processes on each device (1)")


def add_measured_objects(parser: argparse.ArgumentParser, limit: int) -> None:
    """Adds the options of a command that measures weights on some objects; `limit` is the usual number of them."""
    parser.add_argument("--weights", default="starter", help="name or path of the weights (starter)")
    parser.add_argument("--dataset", default="shard", choices=list(BENCHMARKS), help="kind of the data set (shard)")
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder, or the shard")
    parser.add_argument("--limit", type=int, default=limit, help=f"objects, spread over the set ({limit})")
    parser.add_argument("--profile", choices=list(PROFILES), default="fast", help="fast (default) or exact")


def measured(args: argparse.Namespace) -> tuple[Engine, list[EvalObject]]:
    """The engine and the objects that the options of `add_measured_objects` name."""
    return Engine.from_weights(args.weights, "cpu", args.profile), load_benchmark(args.dataset, args.root, args.limit)


def exit_status(work: Callable[[], int | None], stopped: str, out: Path | None = None) -> int:
    """Does a command's work and says in a line what went wrong.

    Args:
        work: The work; returns the command's exit status, None for 0.
        stopped: What to say after Ctrl-C.
        out: Where the command writes, for errors that do not say where there is no room left.

    Returns:
        The work's own status; 2 for a user's mistake or a file that cannot be used, 130 for Ctrl-C.
    """
    try:
        status = work() or 0
        _flush()
        return status
    except (IcmformerError, OSError) as error:
        print(f"error: {disk_full(error, out) or error}", file=sys.stderr)
        with suppress(OSError):
            _flush()
        return 2
    except Exception as error:  # libraries wrap what the system told them
        full = disk_full(error, out)
        if full is None:
            raise
        print(f"error: {full}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


def _flush() -> None:
    """What cannot be printed is told by the command, not by Python when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
