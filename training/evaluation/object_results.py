"""Results object by object, in a file that grows while they come and tells a resumed run what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from icmformer.errors import ConfigError

from .benchmarks import EvalObject, load_benchmark

_LOG = "objects.jsonl"
_EVALUATION = {"identity", "dataset", "root", "limit", "profile", "size", "served", "box", "target_iou"}
"""Keys of an evaluation's header, among others."""

Header = Mapping[str, Any]
"""What decides the results of a run; the first line of its file."""


class ObjectResult(TypedDict):
    """A line of the file: an object's name, and why it was skipped or what its `Session` came to.

    `box_iou` is that of the mask for the object's box alone, where the session began with it.
    """

    name: str
    skipped: NotRequired[str]
    clicks: NotRequired[list[tuple[int, int, bool]]]
    ious: NotRequired[list[float]]
    seconds: NotRequired[list[float]]
    masks: NotRequired[list[str]]
    box_iou: NotRequired[float]


class ObjectLog:
    """The file of a run's results, which goes on where it stopped.

    Args:
        folder: The run's; made where there is none.
        header: What decides the results.

    Attributes:
        results: Object results so far, by name; a last line cut short by a kill is dropped.

    Raises:
        ConfigError: The folder holds another run.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _LOG
        try:
            before: list[Any] = read_lines(self._path) if self._path.exists() else []
        except ValueError as error:
            raise ConfigError(f"{self._path} is not what an evaluation writes ({error})") from error
        first = {"run": dict(header)}
        if before and _deciding(before[0]) != _deciding(first):
            raise ConfigError(
                f"{self._path} holds another run (different weights, data or settings); give another --out or delete it"
            )
        self.results: dict[str, ObjectResult] = {result["name"]: result for result in before[1:]}
        self._path.write_text("".join(json.dumps(line) + "\n" for line in [first, *before[1:]]))

    def add(self, result: ObjectResult) -> None:
        """Writes the results of one more object, whose line is whole when this returns."""
        self.results[result["name"]] = result
        with self._path.open("a") as file:
            file.write(json.dumps(result) + "\n")


def _deciding(line: Any) -> Any:
    """What is set in a header: options that came later, left at None, are as good as absent."""
    return json.loads(json.dumps(line), object_hook=lambda facts: {k: v for k, v in facts.items() if v is not None})


def read_object_results(folder: Path) -> tuple[dict[str, Any], dict[str, ObjectResult]]:
    """The header of a run and its object results by name.

    Raises:
        ConfigError: There is no such file in the folder, or it is another kind of file.
    """
    path = folder / _LOG
    if not path.is_file():
        raise ConfigError(f"there is no {path}; give the --out folder of an evaluation")
    try:
        header, *results = read_lines(path)
        return dict(header["run"]), {result["name"]: result for result in results}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not what an evaluation writes ({error})") from error


def read_lines(path: Path) -> list[Any]:
    """The JSON of each line; a last line cut short by a kill is dropped.

    Raises:
        ValueError: Another line that is no JSON.
    """
    lines = path.read_text().splitlines()
    if lines:
        try:
            json.loads(lines[-1])
        except ValueError:
            lines = lines[:-1]
    return [json.loads(line) for line in lines]


def evaluated_objects(folder: Path, target_iou: float) -> tuple[Header, list[tuple[EvalObject, ObjectResult]]]:
    """The header of a finished evaluation, whose clicks can be counted to an IoU, and its objects with their results.

    Raises:
        ConfigError: Not the folder of an evaluation, or one that was not finished, or that stopped short of the IoU.
    """
    header, results = read_object_results(folder)
    if not header.keys() >= _EVALUATION:
        raise ConfigError(f"{folder / _LOG} is not of training.evaluate, whose objects this command needs")
    if header["target_iou"] is not None and header["target_iou"] < target_iou:
        raise ConfigError(
            f"{folder} was evaluated to {header['target_iou']:.0%} IoU only; clicks are counted to {target_iou:.0%}"
        )
    objects = load_benchmark(header["dataset"], Path(header["root"]), header["limit"])
    left = [item.name for item in objects if item.name not in results]
    if left:
        raise ConfigError(f"{folder} lacks {len(left)} of {len(objects)} objects; run its evaluation to the end first")
    evaluated = [(item, results[item.name]) for item in objects if results[item.name].get("ious")]
    if not evaluated:
        raise ConfigError(f"not one object was clicked in {folder}")
    return header, evaluated
