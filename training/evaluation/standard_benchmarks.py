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

from .report import print_table
from .runner import evaluate
from .settings import EvaluationSettings

OBJECTS = {"GrabCut": 50, "Berkeley": 100, "DAVIS": 345, "SBD": 6671, "PascalVOC": 3427, "COCO_MVal": 800}
"""Objects of each benchmark, as published."""
SETS = tuple(OBJECTS)


@dataclass(frozen=True)
class Published:
    """Figures that others published.

    Attributes:
        model: The network.
        trained_on: The data set.
        figures: Clicks to 85% and to 90% IoU on GrabCut, Berkeley, DAVIS and SBD; "-" where not given.
    """

    model: str
    trained_on: str
    figures: str

    @property
    def clicks(self) -> dict[str, str]:
        """Benchmark -> clicks to 85% and to 90% IoU, where any are given."""
        pairs = dict(zip(("GrabCut", "Berkeley", "DAVIS", "SBD"), self.figures.split(), strict=True))
        return {name: pair.replace("/", " / ") for name, pair in pairs.items() if pair != _NONE}


_NONE = "-/-"
_C, _S = "COCO+LVIS", "SBD"
PUBLISHED = (
    Published("graph cut", "", "-/10.00 -/14.22 -/17.41 -/-"),
    Published("DIOS, 2016", "Pascal VOC", "-/6.04 -/8.65 -/12.58 -/-"),
    Published("RITM, HRNet-18s", _C, "1.54/1.68 -/2.60 4.70/5.98 4.04/6.48"),
    Published("RITM, HRNet-18", _C, "1.42/1.54 -/2.26 4.36/5.74 3.80/6.06"),
    Published("RITM, HRNet-32", _C, "1.46/1.56 1.43/2.10 4.11/5.34 3.59/5.71"),
    Published("FocalClick, SegFormer-B0, 128", _C, "1.60/1.86 2.05/3.29 5.13/7.42 4.98/7.60"),
    Published("FocalClick, SegFormer-B0, 256", _C, "1.40/1.66 1.59/2.27 4.04/5.49 4.56/6.86"),
    Published("FocalClick, SegFormer-B3, 256", _C, "1.44/1.50 1.55/1.92 3.61/4.90 3.53/5.59"),
    Published("SimpleClick, ViT-B", _C, "1.38/1.48 1.36/1.97 3.66/5.06 3.43/5.62"),
    Published("iCMFormer, ViT-B", _C, "1.42/1.52 1.40/1.86 3.40/5.06 3.29/5.30"),
    Published("iCMFormer, ViT-B", _S, "1.36/1.42 1.42/2.52 4.05/5.58 3.33/5.31"),
    Published("MFP, ViT-B", _C, "1.34/1.42 1.35/1.90 3.37/4.81 3.26/5.34"),
    Published("CFR-ICL, ViT-H", _C, "-/- -/- 3.00/4.24 -/-"),
    Published("SAM, ViT-H", "SA-1B", "-/1.88 -/2.09 -/5.19 -/7.62"),
)
"""RITM's and FocalClick's as on their own pages, SAM's as quoted in FocSAM (Huang et al., CVPR 2024), others as quoted
in MFP (Lee et al., CVPR 2024) and in the papers of DIOS, iCMFormer and CFR-ICL."""


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
    """Evaluates benchmarks (those that are there, unless `sets` names some), and prints and writes their figures.

    `data` holds a folder for each benchmark, by its name. `out` gets one for each, as `evaluate` writes it, and
    results.md, written anew after each; after a stop it goes on from there. The other arguments are those of
    `EvaluationSettings` and `evaluate`.

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
    if first.get("refinement_pass"):
        told += ", with a refinement pass after a first click, which the published networks do not make"
    if close := first.get("close_up"):
        told += f", zooming in closer from click {close['from_click']} on"
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
            cells = " | ".join(other.clicks.get(name, "- / -") for name in sets)
            lines.append(f"| {other.model} | {other.trained_on} | {cells} |")
    lines += [
        "",
        "Published figures, by their authors or as quoted in MFP and FocSAM (both CVPR 2024). Of this run:",
        "",
    ]
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
