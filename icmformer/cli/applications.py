"""Commands of the applications: `icmformer evaluate`, `finetune`, `serve` and `warm-up`.

All that follows these names is the application's own. An application is imported when its command is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from icmformer.errors import ConfigError


class Program(NamedTuple):
    """A command of an application.

    Attributes:
        module: Where its `main(argv)` is, below `icmformer.applications`.
        extra: The extra of the package that brings what it needs.
        text: What it does, for `icmformer --help`.
    """

    module: str
    extra: str
    text: str


PROGRAMS = {
    ("evaluate",): Program("training.evaluate", "train", "count the clicks that weights need on a data set"),
    ("finetune",): Program("training.finetune", "train", "train on what a team has annotated, promote what is better"),
    ("serve", "label-studio"): Program("ls_backend.__main__", "label-studio", "the Label Studio ML backend"),
    ("serve", "cvat"): Program("serverless.local", "cvat", "the CVAT function over HTTP, without Docker and Nuclio"),
    ("warm-up",): Program(
        "serverless.warm_up", "cvat-agent", "have the CVAT function see a job's frames before annotators do"
    ),
}


def register(commands: Any) -> None:
    """Adds the commands, for the list of commands: `started` runs them."""
    for words, program in PROGRAMS.items():
        if len(words) == 1:
            commands.add_parser(words[0], help=program.text, add_help=False)
    serve = commands.add_parser(
        "serve",
        help="answer clicks of Label Studio or CVAT",
        description="Starts a server that answers clicks.",
        epilog="`icmformer serve TOOL --help` lists a server's options.",
    )
    tools = serve.add_subparsers(title="tools", metavar="TOOL", required=True)
    for words, program in PROGRAMS.items():
        if words[0] == "serve":
            tools.add_parser(words[1], help=program.text, add_help=False)


def started(argv: Sequence[str]) -> int | None:
    """Runs the application that the first words name.

    Returns:
        Its exit status; None where they name none.

    Raises:
        ConfigError: It cannot be loaded, since a package is missing or broken.
    """
    for words, program in PROGRAMS.items():
        if tuple(argv[: len(words)]) == words:
            return _run(" ".join(words), program, list(argv[len(words) :]))
    return None


def _run(name: str, program: Program, argv: list[str]) -> int:
    advice = f"pip install 'icmformer[{program.extra}]' brings what it needs"
    try:
        module = importlib.import_module(f"icmformer.applications.{program.module}")
    except ImportError as error:
        raise ConfigError(f"`icmformer {name}` cannot start ({error}): {advice}") from error
    try:
        status: int = module.main(argv)
    except ModuleNotFoundError as error:
        raise ConfigError(f"`icmformer {name}` ended ({error}): {advice}") from error
    return status
