"""Measures the bundled weights and writes their figures into the pages that tell them.

python docs/figures/starter_figures.py measure --benchmarks DIR --shards DIR --out OUT [--jobs 2]
python docs/figures/starter_figures.py write

`measure` takes twenty minutes on two cores, goes on where it stopped, and leaves starter_figures.json beside
this file, with the checksum of the weights that the figures are of. After a change of how clicks become masks, give it
a new OUT. `write` brings the pages up to date with it: tables between the comments `<!-- starter NAME -->` and
`<!-- end -->`, and the sentences of `SENTENCES`. A test fails where a page, the file and the weights do not agree.

--benchmarks holds GrabCut and Berkeley, --shards the five training shards and the validation shard.
"""

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icmformer import Engine
from icmformer.weights import load
from training.command_line import exit_status
from training.evaluation.benchmarks import load_benchmark
from training.evaluation.calibration import calibrate
from training.evaluation.edge_clicks import measure_edges
from training.evaluation.edge_clicks import table as edge_table
from training.evaluation.runner import evaluate
from training.evaluation.settings import EvaluationSettings
from training.evaluation.standard_benchmarks import PUBLISHED
from training.evaluation.stratified import stratified_metrics
from training.tools.machine import machine

ROOT = Path(__file__).parents[2]
FIGURES = Path(__file__).with_suffix(".json")
CARD = "icmformer/assets/starter/MODEL_CARD.md"
OPEN_CARD = "icmformer/assets/starter-open/MODEL_CARD.md"
PAGES = ("README.md", "docs/starter.md", "docs/choosing.md", "docs/prediction.md", CARD, OPEN_CARD)
OPEN = "starter-open"
OF_OPEN = ("GrabCut", "Berkeley", "validation", "never trained", "box")
"""What is measured of it; of the starter all of `evaluations`."""
SEEDS = (0, 1, 2)
SPREADS = (0.5, 1.0)

Figures = Mapping[str, Any]


def evaluations(benchmarks: Path, shards: Path) -> Iterator[tuple[str, EvaluationSettings]]:
    """Name and settings of every evaluation."""
    for name in CURVES:
        yield name, EvaluationSettings(name, benchmarks / name, target_iou=None)
        yield f"{name}, unordered", EvaluationSettings(name, benchmarks / name, order="unordered")
    shard: dict[str, Any] = {"dataset": "shard", "root": shards / "val-000.zip", "profile": "fast"}
    for wish, words in ((None, ""), ("no", ", no close-ups")):
        yield f"validation{words}", EvaluationSettings(**shard, close_up=wish)
        yield f"mosaics{words}", EvaluationSettings(**{**shard, "dataset": "mosaic"}, limit=150, close_up=wish)
        yield f"never trained{words}", EvaluationSettings("never-trained", shards, profile="fast", close_up=wish)
    yield "validation 100", EvaluationSettings(**shard, limit=100)
    yield "box", EvaluationSettings(**shard, limit=100, box="ellipse+centre")
    for spread in SPREADS:
        for seed in SEEDS:
            yield jittered(spread, seed), EvaluationSettings(**shard, limit=100, click_spread=spread, seed=seed)


def jittered(spread: float, seed: int) -> str:
    """The name of an evaluation with jittered clicks."""
    return f"spread {spread:g}, seed {seed}"


def measure(benchmarks: Path, shards: Path, out: Path, jobs: int) -> None:
    """Measures everything and writes `FIGURES`."""
    every = dict(evaluations(benchmarks, shards))
    with (ROOT / OPEN_CARD).with_name("PHOTOS.csv").open(newline="") as file:
        sets = {row["set"] for row in csv.DictReader(file)}
    found = {"machine": machine()} | _of_weights("starter", every, None, out, jobs)
    found[OPEN] = _of_weights(OPEN, {name: every[name] for name in OF_OPEN}, sets, out, jobs)
    engine = Engine.from_weights("starter", "cpu", "fast")
    found["edges"] = edge_table(measure_edges(engine, load_benchmark("shard", shards / "train-001.zip", 700)))
    FIGURES.write_text(json.dumps(found, indent=1) + "\n")


def _of_weights(
    bundle: str, settings: Mapping[str, EvaluationSettings], trained_on: set[str] | None, out: Path, jobs: int
) -> dict[str, Any]:
    """Which weights these are, what evaluations give with them, by group, too, and what their scores are worth."""
    weights = load(bundle)
    out = out / weights.identity[:12]
    found: dict[str, Any] = {"sha256": weights.sha256, "identity": weights.identity}
    for name, setting in settings.items():
        result = evaluate(replace(setting, weights=bundle), out / re.sub(r"\W+", "-", name), jobs=jobs)
        found[name] = {key: result[key] for key in KEPT}
        if name in CURVES:
            found[name]["reached"] = result["reached"]["90"]
    found["groups"] = stratified_metrics(out / "never-trained", trained_on)
    objects = load_benchmark("never-trained", settings["never trained"].root, 240)
    found["scores"] = calibrate(Engine.from_weights(bundle, "cpu", "fast"), objects)
    return found


KEPT = ("objects", "noc", "never", "miou_at_box", "miou_at_1", "miou", "seconds_per_click", "profile", "runtime")
CURVES = ("GrabCut", "Berkeley")
"""Of which starter_curves.png shows how many objects are at 90% IoU after how many clicks."""


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _noc(result: Figures) -> list[str]:
    return [f"{result['noc'][target]:.2f}" for target in ("80", "85", "90")]


def benchmark(name: str) -> Callable[[Figures], list[str]]:
    """The table of one benchmark, with the baselines of `training.baselines`."""

    def lines(f: Figures) -> list[str]:
        protocol, unordered = f[name], f[f"{name}, unordered"]
        one, five = protocol["miou"][0], protocol["miou"][4]
        served = f"{unordered['miou_at_1']:.3f}"
        return [
            _row("", "NoC@80", "NoC@85", "NoC@90", "never at 90%", "mIoU after 1 click", "after 5"),
            _row(*["---"] * 7),
            _row("**starter**, protocol", *_noc(protocol), protocol["never"]["90"], f"{one:.3f}", f"{five:.3f}"),
            _row("starter, as served, clicks unordered", *_noc(unordered), unordered["never"]["90"], served, ""),
            *BASELINES[name],
        ]

    return lines


BASELINES = {
    "GrabCut": (
        "| OpenCV's GrabCut, clicks as seeds | 4.38 | 4.96 | 6.22 | 7 | 0.719 | |",
        "| random walker | 6.84 | 8.86 | 11.06 | 11 | 0.320 | |",
    ),
    "Berkeley": (
        "| OpenCV's GrabCut, clicks as seeds | 8.23 | 9.68 | 11.87 | 36 | 0.561 | |",
        "| random walker | 8.55 | 11.27 | 14.79 | 45 | 0.343 | |",
    ),
}


def comparison(f: Figures) -> list[str]:
    """Both bundled weights beside published networks, as many clicks as each needs to 85% and to 90% IoU."""
    sets = ("GrabCut", "Berkeley", "DAVIS", "SBD")
    lines = [_row("", "trained on", *sets), _row(*["---"] * 6)]
    for name, photos, found in _bundled(f):
        nocs = {data: found[data]["noc"] for data in sets if data in found}
        own = {data: f"**{noc['85']:.2f} / {noc['90']:.2f}**" for data, noc in nocs.items()}
        lines.append(_row(f"**{name}**", photos, *(own.get(data, "not measured") for data in sets)))
    lines += [
        _row(other.model, other.trained_on, *(other.clicks.get(name, "") for name in sets))
        for other in PUBLISHED
        if other.trained_on in ("COCO+LVIS", "SA-1B")
    ]
    return lines


def _bundled(f: Figures) -> Iterator[tuple[str, str, Figures]]:
    """Name, training photos and figures of both bundled weights."""
    yield "starter", "16,368 photos", f
    yield OPEN, "2,138 photos", f[OPEN]


def close_ups(f: Figures) -> list[str]:
    """What later clicks gain and cost that zoom in closer."""
    lines = [_row("`fast`", "objects", "close-ups", "NoC@80", "NoC@85", "NoC@90", "never at 90%", "time a click")]
    lines.append(_row(*["---"] * 8))
    for name, words in SETS.items():
        without, closer = f[f"{name}, no close-ups"], f[name]
        ratio = closer["seconds_per_click"] / without["seconds_per_click"]
        never = without["never"]["90"], closer["never"]["90"]
        lines.append(_row(words, without["objects"], "no", *_noc(without), never[0], "1"))
        lines.append(_row("", "", "**yes**", *_noc(closer), never[1], f"{ratio:.2f}"))
    return lines


SETS = {
    "validation": "validation photos, some 280 pixels",
    "mosaics": "nine of them in a square of 840 pixels",
    "never trained": "held-out photos, small objects and unknown kinds too",
}


def bundles(f: Figures) -> list[str]:
    """Both bundled weights side by side."""
    heads = ("GrabCut", "Berkeley", "validation", "held-out", "never at 90%", "held-out, mIoU after 1 click")
    lines = [_row("NoC@90", "trained on", *heads, "box: mIoU of its mask / after 1 click more"), _row(*["---"] * 9)]
    for name, photos, found in _bundled(f):
        held_out, box = found["never trained"], found["box"]
        nocs = [f"{found[data]['noc']['90']:.2f}" for data in OF_OPEN if data != "box"]
        boxes = f"{box['miou_at_box']:.2f} / {box['miou_at_1']:.2f}"
        lines.append(_row(name, photos, *nocs, held_out["never"]["90"], f"{held_out['miou_at_1']:.3f}", boxes))
    return lines


def groups(f: Figures) -> list[str]:
    """The tables by kind, size and shape."""
    return str(f["groups"]).splitlines()


def jitter(f: Figures) -> list[str]:
    """Clicks off the middle: the mean of all seeds, and their range."""
    usual = f["validation 100"]
    lines = [_row("the simulated annotator clicks", "NoC@80", "NoC@85", "NoC@90", "mIoU after 1 click")]
    lines.append(_row(*["---"] * 5))
    lines.append(_row("in the middle of the error, as published", *_noc(usual), f"{usual['miou_at_1']:.3f}"))
    for spread, words in zip(
        SPREADS, ("at least half as deep as the middle (0.5)", "anywhere in the error (1)"), strict=True
    ):
        runs = [f[jittered(spread, seed)] for seed in SEEDS]
        cells = [_ranged([run["noc"][target] for run in runs], 2) for target in ("80", "85", "90")]
        lines.append(_row(words, *cells, _ranged([run["miou_at_1"] for run in runs], 3)))
    return lines


def _ranged(values: list[float], digits: int) -> str:
    low, mean, high = (f"{value:.{digits}f}" for value in (min(values), statistics.mean(values), max(values)))
    return f"{mean} ({low} to {high})"


def goals(f: Figures) -> list[str]:
    """What the training was to reach, and what was reached."""
    told = numbers(f)
    told["spread_percent"] = 100 * told["spread"] / told["v10090"]
    lines = [_row("", "goal", "starter", "reached"), _row(*["---"] * 4)]
    for what, name, goal, unit in GOALS:
        better = told[name] - goal if name in ("box", "box_click") else goal - told[name]
        number = f"{told[name]:.0f}{unit}" if unit else f"{told[name]:.2f}"
        lines.append(_row(what, f"{goal:g}{unit}", number, "yes" if better >= 0 else "**no**"))
    return lines


GOALS = (
    ("GrabCut, NoC@90", "g90", 1.95, ""),
    ("Berkeley, NoC@90", "b90", 3.1, ""),
    ("100 validation objects, NoC@90", "v10090", 5.8, ""),
    ("962 held-out objects, NoC@90", "n90", 7.4, ""),
    ("of them under 1% of the photo, NoC@90", "under_1_", 13.5, ""),
    ("of them thin, NoC@90", "thin", 15, ""),
    ("mIoU after a box", "box", 0.8, ""),
    ("mIoU after a box and one more click", "box_click", 0.83, ""),
    ("more clicks to 90% where they are anywhere in the error", "spread_percent", 8, "%"),
)
"""What it is, the number's name, the goal, and a unit; two decimals without one."""


def fenced(name: str) -> Callable[[Figures], list[str]]:
    """What a command prints, as it is."""
    return lambda f: ["```text", *str(f[name]).splitlines(), "```"]


BLOCKS: Mapping[str, Callable[[Figures], list[str]]] = {
    "GrabCut": benchmark("GrabCut"),
    "Berkeley": benchmark("Berkeley"),
    "comparison": comparison,
    "close-ups": close_ups,
    "groups": groups,
    "bundles": bundles,
    "open groups": lambda f: groups(f[OPEN]),
    "open scores": lambda f: fenced("scores")(f[OPEN]),
    "jittered clicks": jitter,
    "scores": fenced("scores"),
    "edges": fenced("edges"),
    "goals": goals,
}
"""Name of a table -> its lines."""


def numbers(f: Figures) -> dict[str, float]:
    """The numbers that sentences tell, by name; those of `OPEN` begin with o_."""
    told = _of_sets(f) | {f"o_{name}": value for name, value in _of_sets(f[OPEN]).items()}
    error = re.search(r"([\d.]+) +[\d.]+ \*$", f["scores"], re.MULTILINE)
    pairs = re.search(r"in ([\d.]+)% of pairs", f["scores"])
    sure = re.search(r"0\.9 - 1\.0 .* (\d+)%", f["scores"])
    if not (error and pairs and sure):
        raise ValueError(f"training.calibrate prints something else than it did: {f['scores']}")
    told |= {"score_error": float(error[1]), "score_pairs": float(pairs[1]), "score_sure": float(sure[1])}
    spread = statistics.mean(f[jittered(1.0, seed)]["noc"]["90"] for seed in SEEDS)
    told["spread"] = spread - told["v10090"]
    return told


SET_KEYS = {"g": "GrabCut", "b": "Berkeley", "v": "validation", "v100": "validation 100", "n": "never trained"}


def _of_sets(f: Figures) -> dict[str, float]:
    """The numbers of some weights on every set that they were measured on, by group, and after a box."""
    told: dict[str, float] = {}
    for key, result in ((key, f[name]) for key, name in SET_KEYS.items() if name in f):
        told |= {f"{key}{target}": result["noc"][target] for target in ("80", "85", "90")}
        told |= {f"{key}_never": result["never"]["90"], f"{key}_one": result["miou_at_1"]}
        told[f"{key}_count"] = result["objects"]
    told |= {re.sub(r"\W", "_", name): row for name, row in _rows(f["groups"]).items()}
    return told | {"box": f["box"]["miou_at_box"], "box_click": f["box"]["miou_at_1"]}


def table_rows(tables: str) -> list[list[str]]:
    """The cells of each row of Markdown tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.splitlines() if line[:1] == "|"]


def _rows(tables: str) -> dict[str, float]:
    """Group -> NoC@90, of the tables by kind, size and shape."""
    return {row[0]: float(row[4]) for row in table_rows(tables) if row[1].isdigit()}


_METRICS = "".join(
    f"- {{type: noc_{target}, name: Mean number of clicks for {target}% IoU, value: [KEY{target}:.2f]}} "
    for target in ("80", "85", "90")
)
_METRICS += "- {type: miou_1, name: Mean IoU after one click, value: [KEY_one:.3f]}"
SENTENCES = (
    ("README.md", "| **starter**, 7 MB, in the package | [g90:.2f] | [b90:.2f] |"),
    ("README.md", "starter.md#starter-open) alone | [o_g90:.2f] | [o_b90:.2f] |"),
    ("README.md", "On [n_count:.0f] objects that include small ones,"),
    ("README.md", "it needs [n90:.1f] clicks:"),
    (
        "docs/choosing.md",
        "GrabCut [g90:.1f] clicks to 90% IoU, Berkeley [b90:.1f]; [n90:.1f] on [n_count:.0f] objects",
    ),
    (
        "docs/choosing.md",
        "Thin objects ([thin:.1f] clicks to 90%) and objects under a hundredth of the photo ([under_1_:.1f])",
    ),
    (CARD, "name: GrabCut} metrics: " + _METRICS.replace("KEY", "g")),
    (CARD, "name: Berkeley} metrics: " + _METRICS.replace("KEY", "b")),
    (OPEN_CARD, "name: GrabCut} metrics: " + _METRICS.replace("KEY", "o_g")),
    (OPEN_CARD, "name: Berkeley} metrics: " + _METRICS.replace("KEY", "o_b")),
    (
        OPEN_CARD,
        "Mean number of clicks for 90% IoU: [o_g90:.1f] on GrabCut (the starter: [g90:.1f]), [o_b90:.1f] on Berkeley "
        "([b90:.1f]), [o_v90:.1f] on the validation photos ([v90:.1f]), [o_n90:.1f] on [n_count:.0f] held-out objects "
        "([n90:.1f])",
    ),
    ("docs/choosing.md", "GrabCut [o_g90:.1f], Berkeley [o_b90:.1f]; [o_n90:.1f] on the same [n_count:.0f] objects"),
    (
        CARD,
        "Mean number of clicks for 90% IoU: [g90:.1f] on GrabCut, [b90:.1f] on Berkeley, [v10090:.1f] on 100 objects "
        "of the validation photos ([v90:.1f] on all of them), [n90:.1f] on [n_count:.0f] held-out objects that include "
        "small ones and kinds of photos that were never trained on ([n_never:.0f] of these",
    ),
    (
        CARD,
        "smaller than a hundredth of their photo ([under_1_:.1f] clicks for 90% IoU), thin objects ([thin:.1f]) and "
        "objects in several pieces ([several:.1f])",
    ),
    (CARD, "(nuclei [dsb2018:.1f], solar panels [solar:.1f], façades [facade:.1f], viruses [virus_em:.1f])"),
    (CARD, "damage without an edge ([cardamage:.1f])"),
    (CARD, "it needs [spread:.2f] clicks more on the validation photos"),
    (CARD, "A score is wrong by [score_error:.2f] on average"),
    ("docs/prediction.md", "its score misses the mask's IoU by [score_error:.2f] on average"),
    (
        "docs/starter.md",
        "The score misses the IoU by [score_error:.2f] on average. In [score_pairs:.1f]% of pairs, a mask with an IoU "
        "under 0.8 has a lower score than one with 0.8 or more; of the masks with a score over 0.9, [score_sure:.0f]% "
        "are bad.",
    ),
    (
        "docs/starter.md",
        "A box's first mask has an IoU of [box:.2f] on the validation photos, and [box_click:.2f] after one more click",
    ),
)
"""Page, and a sentence on it with its numbers as [name:format]; a space stands for any white space."""


def updated(page: str, text: str, f: Figures) -> str:
    """A page with the figures in it.

    Raises:
        ValueError: A sentence or the end of a table that is not there.
    """
    told = numbers(f)
    for name, lines in BLOCKS.items():
        start, end = f"<!-- starter {name} -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        if found:
            old, ended, after = rest.partition(end)
            if not ended or "<!-- starter" in old:
                raise ValueError(f"{page}: the table {name} has no end")
            text = before + start + "\n" + "\n".join(lines(f)) + "\n\n" + end + after
    for where, sentence in SENTENCES:
        if where == page:
            text = _with_sentence(page, text, sentence, told)
    return text


def _with_sentence(page: str, text: str, sentence: str, told: Mapping[str, float]) -> str:
    """A text in which the numbers of one sentence are brought up to date."""
    pieces = re.split(r"\[(\w+:[^\]]+)\]", sentence)  # texts and fields by turns
    pattern = "".join(
        rf"({_NUMBER})" if number % 2 else re.escape(piece).replace(r"\ ", r"\s+")
        for number, piece in enumerate(pieces)
    )
    found = list(re.finditer(pattern, text))
    if len(found) != 1:
        raise ValueError(f"{page} has {len(found)} sentences such as: {sentence}")
    for group, field in reversed([*enumerate(pieces[1::2], 1)]):
        name, _, form = field.partition(":")
        start, end = found[0].span(group)
        text = text[:start] + format(told[name], form) + text[end:]
    return text


_NUMBER = r"-?\d+(?:\.\d+)?"


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="measure the bundled weights")
    for name in ("benchmarks", "shards", "out"):
        measuring.add_argument(f"--{name}", type=Path, required=True)
    measuring.add_argument("--jobs", type=int, default=2, help="processes (2)")
    commands.add_parser("write", help="write what was measured into the pages")
    args = parser.parse_args(argv)

    def work() -> None:
        if args.command == "measure":
            measure(args.benchmarks, args.shards, args.out, args.jobs)
            return
        figures = json.loads(FIGURES.read_text())
        for page in PAGES:
            path = ROOT / page
            path.write_text(updated(page, path.read_text(), figures))

    return exit_status(work, "stopped; run it again to go on")


if __name__ == "__main__":
    sys.exit(main())
