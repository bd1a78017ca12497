"""Plays the standard benchmarks and sets the figures beside the published ones: `python -m training.results --out DIR`.

`--data DIR` holds a folder for each benchmark, by its name (GrabCut, Berkeley, DAVIS, SBD, PascalVOC, COCO_MVal;
layouts as in docs/evaluation.md). Those that are there are played, each as `training.evaluate` plays it, on all devices
and processes given; OUT/results.md is written anew after each. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError
from icmformer.weights.serving_defaults import MIN_CROP_SIZE
from training.command import exit_status
from training.evaluate import main as evaluate

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


def page(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The results page, in Markdown.

    Args:
        measured: Benchmark -> `results.json` of its evaluation.
    """
    first = next(iter(measured.values()))
    weights, sets = first["weights"], [name for name in SETS if name in measured]
    told = f"{', '.join(sets)}, played by the published protocol, profile `{first['profile']}`"
    if first["min_crop_size"] != MIN_CROP_SIZE:
        told += f", zooming in to {first['min_crop_size']} pixels where the published networks stop at {MIN_CROP_SIZE}"
    if first["refinement_pass"]:
        told += ", looking again at what a first click found, which the published networks do not"
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="starter", help="name or path of the weights (starter)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the benchmarks' folders")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--sets", nargs="+", choices=SETS, metavar="NAME", help=f"of {', '.join(SETS)} (all there are)")
    parser.add_argument("--profile", choices=["exact", "fast"], default="exact", help="exact (default) or fast")
    parser.add_argument("--all-clicks", action="store_true", help="play all 20 clicks, for mIoU and AuC")
    parser.add_argument("--limit", type=int, metavar="N", help="only N objects of each, to try it")
    parser.add_argument("--device", default="cpu", help="one device, or several separated by commas (cpu)")
    parser.add_argument("--jobs", type=int, default=1, help="processes on each device (1)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    args = _parser().parse_args(argv)
    return exit_status(lambda: _results(args), f"stopped; run the same command to go on: {args.out}")


def _results(args: argparse.Namespace) -> int:
    sets = args.sets or [name for name in SETS if (args.data / name).is_dir()]
    if not sets:
        raise ConfigError(f"{args.data} holds none of the folders {', '.join(SETS)}")
    absent = [name for name in SETS if name not in sets]
    measured: dict[str, Any] = {}
    failed: list[str] = []
    for name in sets:
        command = ["--weights", args.weights, "--dataset", name, "--root", str(args.data / name)]
        command += ["--out", str(args.out / name), "--profile", args.profile]
        command += ["--device", args.device, "--jobs", str(args.jobs)]
        command += ["--all-clicks"] if args.all_clicks else []
        command += ["--limit", str(args.limit)] if args.limit is not None else []
        status = evaluate(command)
        if status == 130:
            return status
        if status:
            failed.append(name)
            continue
        measured = {
            known: json.loads((args.out / known / "results.json").read_text())
            for known in SETS
            if (args.out / known / "results.json").is_file()
        }
        (args.out / "results.md").write_text(page(measured))
    told = f"{args.out / 'results.md'}" if measured else "nothing was played"
    print(f"\n{told}" + (f"; not there: {', '.join(absent)}" if absent else ""))
    if failed:
        raise ConfigError(f"{', '.join(failed)} could not be played, see above; the same command tries again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
