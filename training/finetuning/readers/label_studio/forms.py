"""The forms in which Label Studio writes tasks with annotations, brought to one: that of its JSON export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..annotations import AnnotationError
from .addresses import may_be_photo

FLAT = "from_json_min"
"""Key of a task that came from JSON-MIN, whose regions do not say what image they are on."""
_FACTS = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"})
_GEOMETRY = frozenset({"original_width", "rle", "points", "radiusX", "imageDataURL", "vertices", "sequence"})


def is_label_studio(content: Any) -> bool:
    """Whether JSON has one of the forms of Label Studio's exports."""
    try:
        return label_studio_tasks(content) is not None
    except AnnotationError:
        return True


def label_studio_tasks(content: Any) -> list[dict[str, Any]] | None:
    """The tasks of an export, as its JSON form has them: `data` and `annotations`.

    Args:
        content: The export's JSON, JSON-MIN, JSON with `completions` (before version 1), or a file of a target storage,
            which holds one task or one annotation with its task; or a list of these.

    Returns:
        A task for each entry, empty for an entry that is none; None if this is no export of Label Studio.

    Raises:
        AnnotationError: Annotations without their tasks.
    """
    if isinstance(content, Mapping):
        if not any(isinstance(content.get(key), list) for key in ("annotations", "completions", "result")):
            return None
        task = _task(content)
        return None if task is None else [task]
    if not isinstance(content, list):
        return None
    tasks: list[dict[str, Any]] = []
    by_id: dict[Any, dict[str, Any]] = {}  # JSON-MIN has an entry for each annotation of a task
    known = False
    for item in content:
        task = _task(item)
        known = known or task is not None
        number = task.get("id") if task and task.get(FLAT) else None
        if task and isinstance(number, int | str) and number in by_id and _alike(by_id[number]["data"], task["data"]):
            by_id[number]["annotations"] += task["annotations"]
            continue
        tasks.append(task or {})
        if task and isinstance(number, int | str):
            by_id[number] = task
    return tasks if known else None


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries of JSON-MIN may be of one task: answers to choices may differ, addresses may not."""
    return all(value == other.get(key) for key, value in one.items() if isinstance(value, str) and may_be_photo(value))


def _task(item: Any) -> dict[str, Any] | None:
    """One entry as a task; None where it is nothing of Label Studio's."""
    if not isinstance(item, Mapping):
        return None
    if isinstance(item.get("result"), list) and "data" not in item and "task" in item:
        return _of_annotation(item)
    if _is_flat(item):
        return _of_json_min(item)
    if not isinstance(item.get("data"), Mapping | str):
        return None
    annotations = item.get("annotations") if "annotations" in item else item.get("completions")
    task = {"id": item.get("id"), "data": item["data"], "annotations": _list(annotations)}
    kept = {key: item[key] for key in ("predictions", "drafts", FLAT) if key in item}
    return {**task, **kept}


def _of_annotation(item: Mapping[str, Any]) -> dict[str, Any]:
    task = item["task"]
    if not isinstance(task, Mapping):
        raise AnnotationError(
            "these are annotations of Label Studio without the data of their tasks, as some target storages have them: "
            "export the project as JSON instead"
        )
    annotation = {key: value for key, value in item.items() if key != "task"}
    return {"id": task.get("id"), "data": task.get("data", task), "annotations": [annotation]}


def _is_flat(item: Mapping[str, Any]) -> bool:
    if "annotations" in item or "completions" in item or FLAT in item:
        return False
    if "annotation_id" in item or ("annotator" in item and "lead_time" in item):
        return True
    return "data" not in item and any(_regions(value) for value in item.values())


def _of_json_min(item: Mapping[str, Any]) -> dict[str, Any]:
    """A task of the flat form: its data and, by the names of controls, its regions lie side by side."""
    results, data = [], {}
    for name, value in item.items():
        if _regions(value):
            results += [{**_sized(region), "from_name": name} for region in value if isinstance(region, Mapping)]
        elif name not in _FACTS:
            data[name] = value
    times = {key: item[key] for key in ("created_at", "updated_at") if key in item}
    annotation = {"id": item.get("annotation_id"), "completed_by": item.get("annotator"), **times, "result": results}
    return {"id": item.get("id"), "data": data, "annotations": [annotation], FLAT: True}


def _regions(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(v, Mapping) and not _GEOMETRY.isdisjoint(v) for v in value)


def _sized(region: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {key: region[key] for key in ("original_width", "original_height", "id") if key in region}
    return {**sizes, "value": {key: value for key, value in region.items() if key not in sizes}}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
