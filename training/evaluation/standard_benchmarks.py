"""The standard benchmarks, and their figures beside the published ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError, IcmformerError
from icmformer.weights.serving_defaults import MIN_CROP_SIZE
from training.evaluation.report import print_table
from training.evaluation.runner import evaluate
from training.evaluation.settings import EvaluationSettings

OBJECTS = {"GrabCut": 50, "Berkeley": 100, "DAVIS": 345, "SBD": 6671, "PascalVOC": 3427, "COCO_MVal": 800}
"""Objects of each benchmark, as published."""
SETS = tuple(OBJECTS)


@dataclass(frozen=True)
class Published:
    """Figures that others published: benchmark -> clicks to 85% and to 90% IoU; None where not given."""

    model: str
    trained_on: str
    clicks: Mapping[str, tuple[float | None, float | None]]


_C, _S = "COCO+LVIS", "SBD"
PUBLISHED = (
    Published("graph cut", "", {"GrabCut": (None, 10.0), "Berkeley": (None, 14.22), "DAVIS": (None, 17.41)}),
    Published("DIOS, 2016", "Pascal VOC", {"GrabCut": (None, 6.04), "Berkeley": (None, 8.65), "DAVIS": (None, 12.58)}),
    Published(
        "RITM, HRNet-32",
        _C,
        {"GrabCut": (1.46, 1.56), "Berkeley": (1.43, 2.1), "DAVIS": (4.11, 5.34), "SBD": (3.59, 5.71)},
    ),
    Published(
        "FocalClick, B3",
        _C,
        {"GrabCut": (1.44, 1.5), "Berkeley": (1.55, 1.92), "DAVIS": (3.61, 4.9), "SBD": (3.43, 5.62)},
    ),
    Published(
        "SimpleClick, ViT-B",
        _C,
        {"GrabCut": (1.38, 1.48), "Berkeley": (1.36, 1.97), "DAVIS": (3.66, 5.06), "SBD": (3.43, 5.62)},
    ),
    Published(
        "iCMFormer, ViT-B",
        _C,
        {"GrabCut": (1.42, 1.52), "Berkeley": (1.4, 1.86), "DAVIS": (3.4, 5.06), "SBD": (3.29, 5.3)},
    ),
    Published(
        "iCMFormer, ViT-B",
        _S,
        {"GrabCut": (1.36, 1.42), "Berkeley": (1.42, 2.52), "DAVIS": (4.05, 5.58), "SBD": (3.33, 5.31)},
    ),
    Published(
        "MFP, ViT-B", _C, {"GrabCut": (1.34, 1.42), "Berkeley": (1.35, 1.9), "DAVIS": (3.37, 4.81), "SBD": (3.26, 5.34)}
    ),
    Published("CFR-ICL, ViT-H", _C, {"DAVIS": (3.0, 4.24)}),
)
"""As quoted in MFP (Lee et al., CVPR 2024) and in the papers of DIOS, iCMFormer and CFR-ICL."""


def evaluate_benchmarks(
    data: Path,
    out: Path,
    sets: Sequence[str] | None = None,
    weights: str = "starter",
    profile: str = "exact",
    all_clicks: bool = False,
    limit: int | None = None,
    devices: Sequence[str] = ("cpu",),
    jobs: int = 1,
) -> None:
    """Evaluates the benchmarks that are there, and prints and writes their figures; goes on after a stop.

    Args:
        data: Holds a folder for each benchmark, by its name.
        out: Gets a folder for each benchmark, as `evaluate` writes it, and results.md, written anew after each.
        sets: Some of `SETS`; None takes those that are there.
        weights: Name or path of the weights.
        profile: `exact` or `fast`.
        all_clicks: Make all clicks rather than stop at an IoU of 90%.
        limit: Only so many objects of each, spread over the set.
        devices: cpu, cuda or cuda:N, each.
        jobs: Processes on each device.

    Raises:
        ConfigError: No benchmark, or some could not be evaluated, which is said when the others are through.
    """
    sets = sets or [name for name in SETS if (data / name).is_dir()]
    if not sets:
        raise ConfigError(f"{data} holds none of the folders {', '.join(SETS)}")
    absent = [name for name in SETS if name not in sets]
    measured: dict[str, Any] = {}
    failed: list[str] = []
    target = None if all_clicks else 0.9
    for name in sets:
        try:
            settings = EvaluationSettings(name, data / name, weights, profile, target_iou=target, limit=limit)
            print_table(evaluate(settings, out / name, devices, jobs), out / name)
        except (IcmformerError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed.append(name)
            continue
        files = {known: out / known / "results.json" for known in SETS}
        measured = {known: json.loads(file.read_text()) for known, file in files.items() if file.is_file()}
        (out / "results.md").write_text(page(measured))
    told = f"{out / 'results.md'}" if measured else "nothing was evaluated"
    print(f"\n{told}" + (f"; not there: {', '.join(absent)}" if absent else ""))
    if failed:
        raise ConfigError(f"{', '.join(failed)} could not be evaluated, see above; the same command tries again")


def page(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The results page, in Markdown.

    Args:
        measured: Benchmark -> `results.json` of its evaluation.
    """
    first = next(iter(measured.values()))
    weights, sets = first["weights"], [name for name in SETS if name in measured]
    told = f"{', '.join(sets)}, by the published protocol, profile `{first['profile']}`"
    if first["min_crop_size"] != MIN_CROP_SIZE:
        told += f", zooming in to {first['min_crop_size']} pixels where the published networks stop at {MIN_CROP_SIZE}"
    if first["second_look"]:
        told += ", with a refinement pass after a first click, which the published networks do not make"
    parts = [f"{name} {measured[name]['objects']} of {OBJECTS[name]}" for name in sets if _is_part(name, measured)]
    if parts:
        told += f"; **not the whole sets, so not to be compared: {', '.join(parts)} objects**"
    lines = [f"# {weights['name']}", "", f"{told}. Weights: sha256 `{weights['sha256']}`.", ""]
    lines += ["Mean number of clicks to 85% / 90% IoU, 20 at most:", ""]
    lines += [f"| | trained on | {' | '.join(sets)} |", f"|---|---|{'---|' * len(sets)}"]
    own = {name: (r["noc"]["85"], r["noc"]["90"]) for name, r in measured.items()}
    lines.append(f"| **{weights['name']}** | | {' | '.join(f'**{_pair(own[name])}**' for name in sets)} |")
    for other in PUBLISHED:
        if any(name in other.clicks for name in sets):
            cells = " | ".join(_pair(other.clicks.get(name, (None, None))) for name in sets)
            lines.append(f"| {other.model} | {other.trained_on} | {cells} |")
    lines += ["", "Published figures as quoted in MFP (CVPR 2024) and by their authors. Of this run:", ""]
    lines += ["| | objects | input | never at 90% | mIoU after one click | after five | seconds a click |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in sets:
        r = measured[name]
        five = f"{r['miou'][4]:.3f}" if r["miou"] else "-"
        never = "-" if r["never"]["90"] is None else str(r["never"]["90"])
        size = " x ".join(map(str, r["target_size"]))
        lines.append(
            f"| {name} | {r['objects']} | {size} | {never} | {r['miou_at_1']:.3f} | {five} | "
            f"{r['seconds_per_click']:.3f} |"
        )
    lines += ["", *(f"![{name}]({name}/curve.png)" for name in sets)]
    return "\n".join(lines) + "\n"


def _is_part(name: str, measured: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(measured[name]["objects"] != OBJECTS[name])


def _pair(clicks: tuple[float | None, float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.2f}" for value in clicks)
