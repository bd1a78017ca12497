"""Results object by object, in a file that grows while they come and tells a resumed run what is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from icmformer.errors import ConfigError
from training.evaluation.benchmarks import EvalObject, load_benchmark

_LOG = "objects.jsonl"
_EVALUATION = {"identity", "dataset", "root", "limit", "profile", "size", "served", "passes", "box", "target_iou"}
"""Keys of an evaluation's header, among others."""

Header = Mapping[str, Any]
"""What decides the results of a run; the first line of its file."""


class ObjectResult(TypedDict):
    """What a session on one object came to, a line of the file.

    Attributes:
        name: The object's.
        skipped: Why there was no session; the other keys are missing then.
        clicks: (row, column, positive) of each click.
        ious: IoU after each click.
        seconds: Time of each prediction.
        masks: Digest of the mask after each click.
        box_iou: IoU of the mask for the object's box alone, where the session began with it.
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
        self.results: dict[str, ObjectResult] = {}
        first = json.dumps({"run": dict(header)})
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        if lines and lines[0] != first:
            raise ConfigError(
                f"{self._path} holds another run (other weights, data or settings); give another --out or delete it"
            )
        kept = [first]
        for line in lines[1:]:
            try:
                result: ObjectResult = json.loads(line)
            except ValueError:
                continue
            self.results[result["name"]] = result
            kept.append(line)
        self._path.write_text("\n".join(kept) + "\n")

    def add(self, result: ObjectResult) -> None:
        """Writes the results of one more object, whose line is whole when this returns."""
        self.results[result["name"]] = result
        with self._path.open("a") as file:
            file.write(json.dumps(result) + "\n")


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
    """The header of a finished evaluation, and its objects with their results.

    Args:
        folder: The evaluation's.
        target_iou: The IoU that clicks are to be counted to.

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
