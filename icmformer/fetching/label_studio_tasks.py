"""The tasks of a Label Studio project, page by page, from a Label Studio in use that may restart meanwhile."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from icmformer.fetching.label_studio import ApiError, LabelStudio
from icmformer.serving.errors import FetchError, TooLargeError

PAGE = 50
"""Tasks of a page, with all that is drawn on them."""
_PASSING = (408, 429)  # of the statuses that say that the request was wrong, those that a later try may not meet
_TASK = ("id", "data")
_ANNOTATION = (
    *("id", "result", "completed_by", "created_at", "updated_at", "parent_prediction"),
    *("was_cancelled", "ground_truth", "last_action", "reviews"),
)
_PREDICTION = ("id", "result", "model_version", "created_at", "updated_at")


class LabelStudioGoneError(FetchError):
    """Not one photo, but Label Studio itself: it does not answer, or takes the token no more."""


@dataclass(frozen=True)
class PatientStudio:
    """Asks Label Studio's API, again where it does not answer for a moment.

    Attributes:
        studio: Label Studio.
        pauses: Seconds before each further try.
    """

    studio: LabelStudio
    pauses: Sequence[float]

    def asked(self, path: str | Callable[[int], str], missing: str = "") -> Any:
        """What the API answers.

        Args:
            path: From `/api/` on, with its query; or what makes it of the number of tries that failed.
            missing: What to say of a 403 or 404 beyond Label Studio's words.

        Raises:
            LabelStudioGoneError: It refuses, or none of the tries came through.
            TooLargeError: The answer is larger than any may be.
        """
        for tries in range(len(self.pauses) + 1):
            try:
                return self.studio.api(path if isinstance(path, str) else path(tries))
            except FetchError as error:
                status = error.status if isinstance(error, ApiError) else 0
                told = missing if missing and status in (403, 404) else str(error)
                if tries == len(self.pauses) or (300 <= status < 500 and status not in _PASSING):
                    raise LabelStudioGoneError(told) from error
                tqdm.write(f"{told}; trying again in {self.pauses[tries]:g} s", file=sys.stderr)
                time.sleep(self.pauses[tries])
        raise AssertionError("unreachable")


def pages(
    studio: PatientStudio, project: int, last: int, *, unannotated: bool, predictions: bool
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The tasks of a project, in pages, and how many there are from each page on.

    Tasks come by their numbers, each page from the last number on, up to a page that is empty: whatever is added,
    annotated or deleted meanwhile, none that was there all the time is left out, and none comes twice. Pages become
    smaller where one is too large or does not come in time, and larger again where they come quickly.

    Args:
        studio: Label Studio.
        project: Its number.
        last: The number of the last task that is known; 0 for none.
        unannotated: Also tasks that nobody annotated.
        predictions: Also what models said of each task.

    Raises:
        LabelStudioGoneError: See `PatientStudio.asked`.
        TooLargeError: A single task is too large.
        FetchError: An answer of another form, or in another order.
    """
    size = tried = PAGE
    began = 0.0

    def address(tries: int) -> str:
        nonlocal tried, began
        tried, began = max(1, size >> tries), time.monotonic()
        return _address(project, last, tried, unannotated)

    while True:
        try:
            tasks, left = _read(studio, studio.asked(address), last)
        except TooLargeError:
            if tried == 1:
                raise
            size = tried // 2
            continue
        if not tasks:
            return
        quick = time.monotonic() - began < studio.studio.seconds / 4
        size, last = min(PAGE, 2 * tried) if quick else tried, tasks[-1]["id"]
        yield [_kept(task, predictions) for task in tasks], left


def _address(project: int, last: int, size: int, unannotated: bool) -> str:
    filters = [_filter("id", last)] + ([] if unannotated else [_filter("total_annotations", 0)])
    query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
    coded = quote(json.dumps(query, separators=(",", ":")))
    return f"/api/tasks/?project={project}&fields=all&resolve_uri=false&page=1&page_size={size}&query={coded}"


def _read(studio: PatientStudio, answer: Any, last: int) -> tuple[list[dict[str, Any]], int]:
    """The tasks of an answer, and how many there are from them on."""
    url = studio.studio.url
    try:
        tasks = sorted(answer["tasks"], key=lambda task: int(task["id"]))
        total = int(answer["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise FetchError(
            f"{url} answered with tasks in a form that is not known: export the project instead"
        ) from error
    if any(task["id"] <= last for task in tasks):
        raise FetchError(f"{url} does not list tasks by their numbers: export the project instead")
    return tasks, total


def _filter(field: str, above: int) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{field}", "operator": "greater", "type": "Number", "value": above}


def _kept(task: Mapping[str, Any], predictions: bool) -> dict[str, Any]:
    """What of a task is read: the same, as long as nobody changes an annotation. Other facts go by the clock."""
    kept = {"annotations": _facts(task.get("annotations"), _ANNOTATION)}
    if predictions:
        kept["predictions"] = _facts(task.get("predictions"), _PREDICTION)
    return {**{name: task[name] for name in _TASK if name in task}, **kept}


def _facts(listed: Any, names: Sequence[str]) -> list[Any]:
    return [
        {name: each[name] for name in names if name in each} if isinstance(each, Mapping) else each
        for each in (listed if isinstance(listed, list) else [])
    ]
